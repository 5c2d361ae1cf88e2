//! `delete` and `deletecollection`: grace for pods, finalizers, and who is deleted after whom.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use minidc_api::kinds::Kind;
use minidc_api::status::Status;
use minidc_store::{Entry, Op, When};
use serde_json::{Value, json};

use crate::admission::{self, NodeWrite};
use crate::call::{self, Call};
use crate::error::{self, Failure};
use crate::object::{self, child, metadata};
use crate::read;
use crate::respond::{self, ListMeta};
use crate::selection::Selection;
use crate::services::{self, kubernetes};
use crate::strategy::{self, is_namespace, is_pod};
use crate::update::is_deletion_finished;

const TRIES: u32 = 6;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What becomes of objects that are owned by the deleted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    grace: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    version: Option<String>,
    /// All checks but no change.
    pub(crate) dry: bool,
}

impl DeleteOptions {
    async fn read(call: &mut Call, body: Body) -> Result<Self, Failure> {
        let body = call::read_body(body).await?;
        let given = call.decode_as("DeleteOptions", &body)?;
        Self::of(call, &given)
    }

    /// From the object and from the call's query.
    pub(crate) fn of(call: &Call, given: &Value) -> Result<Self, Failure> {
        let mut options = Self {
            grace: given["gracePeriodSeconds"].as_i64(),
            propagation: None,
            uid: given["preconditions"]["uid"].as_str().map(str::to_owned),
            version: given["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
            dry: call.is_dry_run()?,
        };
        if let Some(list) = given["dryRun"].as_array() {
            options.dry |= list.iter().any(|value| value == "All");
        }
        if options.grace.is_none() {
            options.grace = call.query.number("gracePeriodSeconds")?;
        }
        let policy = given["propagationPolicy"]
            .as_str()
            .or_else(|| call.query.given("propagationPolicy"));
        let orphan = given["orphanDependents"].as_bool().or_else(|| {
            call.query
                .given("orphanDependents")
                .map(|_| call.query.flag("orphanDependents"))
        });
        options.propagation = match (policy, orphan) {
            (Some(_), Some(_)) => {
                let text = "orphanDependents and deletionPropagation cannot be both set";
                return Err(invalid(&format!(
                    "propagationPolicy: Invalid value: {policy:?}: {text}"
                )));
            }
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some(other), None) => {
                return Err(invalid(&format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \
                     \"Background\", \"Orphan\", \"nil\""
                )));
            }
            (None, None) => None,
        };
        Ok(options)
    }
}

impl DeleteOptions {
    /// Checks the preconditions against a stored object.
    pub(crate) fn check(&self, call: &Call, object: &Value, entry: &Entry) -> Result<(), Failure> {
        check_preconditions(call, self, object, entry)
    }

    /// The same for an object that was changed since its version was checked.
    pub(crate) fn without_version(self) -> Self {
        Self { version: None, ..self }
    }
}

fn invalid(detail: &str) -> Failure {
    Status::passed_on(422, format!("DeleteOptions.meta.k8s.io \"\" is invalid: {detail}")).into()
}

/// What a delete makes of an object.
#[derive(Debug, PartialEq)]
enum Plan {
    /// It goes at once.
    Remove,
    /// It stays for now, in this state.
    Mark(Value),
    /// It is on its way already.
    Leave,
}

/// Decides; pure.
fn plan(kind: &Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut marked = object.clone();
    set_finalizers(&mut marked, options.propagation);
    if object::is_terminating(object) {
        return plan_again(kind, object, marked, options);
    }
    let grace = if is_pod(kind) {
        pod_grace(object, options.grace)
    } else {
        0
    };
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    if object["metadata"]["generation"]
        .as_i64()
        .is_some_and(|generation| generation > 0)
    {
        strategy::bump_generation(&mut marked);
    }
    let meta = metadata(&mut marked);
    meta.insert("deletionTimestamp".to_owned(), object::time(at).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if is_namespace(kind) {
        child(&mut marked, "status").insert("phase".to_owned(), "Terminating".into());
    }
    if is_deletion_finished(kind, &marked) {
        Plan::Remove
    } else {
        Plan::Mark(marked)
    }
}

/// A delete of what is being deleted: it can only be made to go sooner.
fn plan_again(kind: &Kind, object: &Value, mut marked: Value, options: &DeleteOptions) -> Plan {
    let present = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if let Some(asked) = options.grace.map(|grace| if grace < 0 { 1 } else { grace })
        && asked < present
    {
        let at = object::meta(object, "deletionTimestamp").parse::<Timestamp>().ok();
        let at = at.and_then(|at| at.checked_sub(SignedDuration::from_secs(present - asked)).ok());
        let meta = metadata(&mut marked);
        if let Some(at) = at {
            meta.insert("deletionTimestamp".to_owned(), object::time(at).into());
        }
        meta.insert("deletionGracePeriodSeconds".to_owned(), asked.into());
    }
    if is_deletion_finished(kind, &marked) {
        Plan::Remove
    } else if marked == *object {
        Plan::Leave
    } else {
        Plan::Mark(marked)
    }
}

/// Seconds that a pod gets: none if no node runs it, or if it has ended.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let unbound = pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unbound || ended {
        return 0;
    }
    let grace = asked
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30);
    // A negative period stands for the shortest that is not "without asking the node".
    if grace < 0 { 1 } else { grace }
}

/// The garbage collector's finalizers follow what the request says about dependents; without a word they stay.
fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut list: Vec<String> = object::finalizers(object)
        .filter(|name| *name != FOREGROUND && *name != ORPHAN)
        .map(str::to_owned)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => list.push(FOREGROUND.to_owned()),
        Propagation::Orphan => list.push(ORPHAN.to_owned()),
    }
    let meta = metadata(object);
    if list.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), json!(list));
    }
}

/// `delete`.
pub(crate) async fn delete(call: &mut Call, body: Body) -> Result<Response, Failure> {
    let shape = call.shape()?;
    let options = DeleteOptions::read(call, body).await?;
    let (entry, removed) = delete_one(call, &options).await?;
    // As in Kubernetes: pods, services and namespaces are shown as they were; of the rest only that they are gone.
    let shown = !removed || is_pod(call.kind) || call.kind.kind == "Service" || is_namespace(call.kind);
    if shown {
        return respond::entry(call.kind, &entry, shape, StatusCode::OK);
    }
    let uid = object::parse(&entry)
        .map(|object| object::meta(&object, "uid").to_owned())
        .unwrap_or_default();
    Ok(error::status_response(&Status::deleted(call.kind, &call.name, &uid)))
}

/// Deletes the object of the call's path; the answer is its last state and whether it is gone.
pub(crate) async fn delete_one(call: &mut Call, options: &DeleteOptions) -> Result<(Entry, bool), Failure> {
    let kind = call.kind;
    let key = call.key();
    admission::may_delete(kind, &call.name)?;
    services::may_delete(&call.server.store, kind, &call.name)?;
    for _ in 0..TRIES {
        let entry = call.stored()?;
        let object = object::parse(&entry)?;
        check_preconditions(call, options, &object, &entry)?;
        let write = NodeWrite {
            kind,
            name: &call.name,
            new: None,
            old: Some(&object),
        };
        admission::node_restriction(&call.identity, &write)?;
        let when = When::Is(entry.revision);
        let (operations, envelope) = match plan(kind, &object, options, Timestamp::now()) {
            Plan::Leave => return Ok((entry, false)),
            Plan::Remove => {
                let mut operations = vec![Op::Delete { key: key.clone(), when }];
                operations.extend(services::release(&call.server.store, kind, &object));
                (operations, None)
            }
            Plan::Mark(marked) => {
                let envelope = object::seal(kind, &marked)?;
                let operation = Op::Put {
                    key: key.clone(),
                    envelope: envelope.clone(),
                    when,
                };
                (vec![operation], Some(envelope))
            }
        };
        if options.dry {
            let removed = envelope.is_none();
            let envelope = envelope.map_or_else(|| entry.envelope.clone(), Into::into);
            return Ok((Entry { envelope, ..entry }, removed));
        }
        if let Some(answers) = call.commit(operations).await? {
            if envelope.is_none() {
                call.server.deleted(kind, &call.name);
                keep_what_must_be(call).await;
            }
            let answer = answers.into_iter().next().flatten().unwrap_or(entry);
            return Ok((answer, envelope.is_none()));
        }
    }
    Err(Status::modified(kind, &call.name).into())
}

fn check_preconditions(call: &Call, options: &DeleteOptions, object: &Value, entry: &Entry) -> Result<(), Failure> {
    let found = object::meta(object, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != found) {
        let reason = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        return Err(Status::conflict(call.kind, &call.name, &reason).into());
    }
    let version = entry.revision.to_string();
    if let Some(wanted) = options.version.as_deref().filter(|wanted| *wanted != version) {
        let reason = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
        );
        return Err(Status::conflict(call.kind, &call.name, &reason).into());
    }
    Ok(())
}

/// The way of pods to the API can be deleted, as in Kubernetes (`kubectl delete services --all`), but is there again at once.
async fn keep_what_must_be(call: &Call) {
    if kubernetes::is_kept(call.kind, &call.namespace, &call.name)
        && let Err(failure) = kubernetes::keep(&call.server).await
    {
        tracing::error!(%failure, "the service kubernetes could not be made again");
    }
}

/// `deletecollection`: each selected object by itself, as Kubernetes does; what is gone meanwhile does not matter.
pub(crate) async fn delete_collection(call: &mut Call, selection: &Selection, body: Body) -> Result<Response, Failure> {
    let shape = call.shape()?;
    let options = DeleteOptions::read(call, body).await?;
    let (entries, revision) = read::selected(&call.server.store, call.kind, &call.prefix(), selection);
    let mut deleted = Vec::with_capacity(entries.len());
    for entry in entries {
        let (_, name) = object::key_parts(&entry.key);
        name.clone_into(&mut call.name);
        match delete_one(call, &options).await {
            Ok((entry, _)) => deleted.push(entry),
            Err(failure) if failure.code() == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    call.name.clear();
    Ok(respond::list(
        call.kind,
        deleted,
        &ListMeta {
            revision,
            ..ListMeta::default()
        },
        shape,
    ))
}

#[cfg(test)]
mod tests {
    use minidc_api::kinds::by_resource;

    use super::*;

    fn kind(group: &str, plural: &str) -> &'static Kind {
        by_resource(group, "v1", plural).unwrap()
    }

    fn now() -> Timestamp {
        "2024-05-01T10:00:00Z".parse().unwrap()
    }

    fn marked(plan: Plan) -> Value {
        match plan {
            Plan::Mark(object) => object,
            other => panic!("{other:?}"),
        }
    }

    fn running() -> Value {
        json!({
            "metadata": {"name": "a", "generation": 1},
            "spec": {"nodeName": "pi-1", "terminationGracePeriodSeconds": 20},
            "status": {"phase": "Running"}
        })
    }

    #[test]
    fn bound_pod_waits_for_its_node() {
        let pods = kind("", "pods");
        let first = marked(plan(pods, &running(), &DeleteOptions::default(), now()));
        assert_eq!(first["metadata"]["deletionTimestamp"], "2024-05-01T10:00:20Z");
        assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 20);
        assert_eq!(first["metadata"]["generation"], 2);
        assert_eq!(plan(pods, &first, &DeleteOptions::default(), now()), Plan::Leave);
        let longer = DeleteOptions {
            grace: Some(60),
            ..DeleteOptions::default()
        };
        assert_eq!(plan(pods, &first, &longer, now()), Plan::Leave);
        let sooner = DeleteOptions {
            grace: Some(5),
            ..DeleteOptions::default()
        };
        let sooner = marked(plan(pods, &first, &sooner, now()));
        assert_eq!(sooner["metadata"]["deletionTimestamp"], "2024-05-01T10:00:05Z");
        let confirmed = DeleteOptions {
            grace: Some(0),
            ..DeleteOptions::default()
        };
        assert_eq!(plan(pods, &first, &confirmed, now()), Plan::Remove);
    }

    #[test]
    fn pod_without_node_or_ended_pod_goes_at_once() {
        let pods = kind("", "pods");
        let mut unbound = running();
        unbound["spec"]["nodeName"] = Value::Null;
        assert_eq!(plan(pods, &unbound, &DeleteOptions::default(), now()), Plan::Remove);
        let mut ended = running();
        ended["status"]["phase"] = "Failed".into();
        assert_eq!(plan(pods, &ended, &DeleteOptions::default(), now()), Plan::Remove);
        ended["metadata"]["finalizers"] = json!(["example.com/x"]);
        assert_eq!(
            marked(plan(pods, &ended, &DeleteOptions::default(), now()))["metadata"]["deletionGracePeriodSeconds"],
            0
        );
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let deployments = kind("apps", "deployments");
        let object = json!({"metadata": {"name": "a"}});
        let with = |propagation| DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        assert_eq!(
            plan(deployments, &object, &DeleteOptions::default(), now()),
            Plan::Remove
        );
        assert_eq!(
            plan(deployments, &object, &with(Propagation::Background), now()),
            Plan::Remove
        );
        let foreground = marked(plan(deployments, &object, &with(Propagation::Foreground), now()));
        assert_eq!(foreground["metadata"]["finalizers"], json!([FOREGROUND]));
        let orphan = marked(plan(deployments, &foreground, &with(Propagation::Orphan), now()));
        assert_eq!(orphan["metadata"]["finalizers"], json!([ORPHAN]));
        assert_eq!(
            plan(deployments, &orphan, &with(Propagation::Background), now()),
            Plan::Remove
        );
    }

    #[test]
    fn namespace_terminates_until_its_finalizer_is_gone() {
        let namespaces = kind("", "namespaces");
        let object =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let mut terminating = marked(plan(namespaces, &object, &DeleteOptions::default(), now()));
        assert_eq!(terminating["status"]["phase"], "Terminating");
        assert_eq!(
            plan(namespaces, &terminating, &DeleteOptions::default(), now()),
            Plan::Leave
        );
        terminating["spec"]["finalizers"] = json!([]);
        assert_eq!(
            plan(namespaces, &terminating, &DeleteOptions::default(), now()),
            Plan::Remove
        );
    }
}
