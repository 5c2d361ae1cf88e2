use serde_json::{Value, json};

use super::*;
use crate::objects::from_json;

const NOW: &str = "2026-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A Deployment, its sets and their pods, without API or nodes.
struct Model {
    spec: Value,
    generation: i64,
    annotations: BTreeMap<String, String>,
    status: Value,
    sets: Vec<Set>,
    pods: Vec<Arc<Pod>>,
    serial: u32,
}

#[derive(Clone)]
struct Set {
    name: String,
    template: Value,
    replicas: i32,
    available: i32,
    created: u32,
    annotations: BTreeMap<String, String>,
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}})
}

impl Model {
    fn new(replicas: i32, strategy: &Value) -> Self {
        Self {
            spec: json!({
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": strategy,
                "template": template("v1"),
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 2,
            }),
            generation: 1,
            annotations: BTreeMap::new(),
            status: json!({}),
            sets: Vec::new(),
            pods: Vec::new(),
            serial: 0,
        }
    }

    fn rolling(replicas: i32, surge: &Value, unavailable: &Value) -> Self {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        Self::new(replicas, &json!({"type": "RollingUpdate", "rollingUpdate": rolling}))
    }

    fn set_image(&mut self, image: &str) {
        self.spec["template"] = template(image);
        self.generation += 1;
    }

    fn deployment(&self) -> Arc<Deployment> {
        from_json(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": self.generation, "annotations": self.annotations},
            "spec": self.spec,
            "status": self.status,
        }))
    }

    fn observed(&self) -> Vec<Arc<ReplicaSet>> {
        self.sets
            .iter()
            .map(|set| {
                from_json(json!({
                    "metadata": {
                        "name": set.name, "namespace": "default", "uid": set.name, "annotations": set.annotations,
                        "creationTimestamp": format!("2026-01-01T00:{:02}:00Z", set.created),
                    },
                    "spec": {"replicas": set.replicas, "template": set.template},
                    "status": {
                        "replicas": set.replicas, "readyReplicas": set.available, "availableReplicas": set.available,
                    },
                }))
            })
            .collect()
    }

    fn plan_at(&self, now: Timestamp) -> Plan {
        let deployment = self.deployment();
        plan(&Observed {
            deployment: &deployment,
            sets: &self.observed(),
            pods: &self.pods,
            now,
        })
    }

    /// One look and its consequences; says whether anything but the status changed.
    fn step(&mut self) -> bool {
        let plan = self.plan_at(now());
        let changed = plan.create.is_some() || !plan.updates.is_empty() || !plan.delete.is_empty();
        if let Some(new) = plan.create {
            self.serial += 1;
            let mut template = self.spec["template"].clone();
            template["metadata"]["labels"]["pod-template-hash"] = new.hash.into();
            self.sets.push(Set {
                name: new.name,
                template,
                replicas: new.replicas,
                available: 0,
                created: self.serial,
                annotations: new.annotations,
            });
        }
        for update in plan.updates {
            let set = self
                .sets
                .iter_mut()
                .find(|set| set.name == *update.set.metadata.key.name)
                .unwrap();
            set.annotations.extend(update.annotations);
            if let Some(replicas) = update.replicas {
                assert!(replicas >= 0);
                set.replicas = replicas;
                // Pods that are not available go first.
                set.available = set.available.min(replicas);
            }
        }
        for gone in plan.delete {
            self.sets.retain(|set| set.name != *gone.metadata.key.name);
        }
        if let Some(revision) = plan.revision {
            self.annotations.insert(REVISION.into(), revision);
        }
        self.status = serde_json::to_value(&plan.status).unwrap();
        changed
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|set| set.available).sum()
    }

    fn asked(&self) -> i32 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    /// One more pod, of the set asked for, becomes available.
    fn bring_up(&mut self, which: usize) -> bool {
        let waiting: Vec<usize> = (0..self.sets.len())
            .filter(|index| self.sets[*index].available < self.sets[*index].replicas)
            .collect();
        if waiting.is_empty() {
            return false;
        }
        self.sets[waiting[which % waiting.len()]].available += 1;
        true
    }

    /// Goes on until nothing moves.
    fn settle(&mut self, mut check: impl FnMut(&Self)) {
        for round in 0..1000 {
            let changed = self.step();
            check(self);
            let moved = self.bring_up(round * 7);
            check(self);
            if !changed && !moved && !self.step() {
                return;
            }
        }
        panic!("the roll-out does not end");
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let condition = self.status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["type"] == kind)
            .unwrap();
        (
            condition["status"].as_str().unwrap().into(),
            condition["reason"].as_str().unwrap().into(),
        )
    }
}

#[test]
fn a_roll_out_stays_within_its_bounds_and_ends() {
    let shares = [json!(0), json!(1), json!(2), json!("25%"), json!("50%"), json!("100%")];
    for replicas in [0, 1, 2, 3, 4, 7, 10] {
        for surge in &shares {
            for unavailable in &shares {
                let mut model = Model::rolling(replicas, surge, unavailable);
                let limits = bounds(&model.deployment());
                let case = format!("{replicas} replicas, {limits:?}");
                model.settle(|model| assert!(model.asked() <= replicas, "{case}"));
                for image in ["v2", "v3"] {
                    model.set_image(image);
                    model.settle(|model| {
                        assert!(
                            model.asked() <= replicas + limits.surge,
                            "{case}: {} asked",
                            model.asked()
                        );
                        assert!(
                            model.available() >= replicas - limits.unavailable,
                            "{case}: {}",
                            model.available()
                        );
                    });
                    assert_eq!((model.asked(), model.available()), (replicas, replicas), "{case}");
                    let newest = model.sets.last().unwrap();
                    assert_eq!(newest.replicas, replicas, "{case}");
                }
                assert_eq!(model.annotations[REVISION], "3", "{case}");
                assert_eq!(
                    model.condition("Progressing"),
                    ("True".into(), "NewReplicaSetAvailable".into()),
                    "{case}"
                );
                assert_eq!(
                    model.condition("Available"),
                    ("True".into(), "MinimumReplicasAvailable".into()),
                    "{case}"
                );
                assert_eq!(model.status["updatedReplicas"], replicas);
                assert_eq!(model.status["unavailableReplicas"], 0);
            }
        }
    }
}

#[test]
fn going_back_takes_the_old_set_under_a_new_revision() {
    let mut model = Model::rolling(3, &json!(1), &json!(0));
    model.settle(|_| ());
    model.set_image("v2");
    model.settle(|_| ());
    model.set_image("v1");
    model.settle(|_| ());
    assert_eq!(model.sets.len(), 2);
    let first = &model.sets[0];
    assert_eq!((first.replicas, model.sets[1].replicas), (3, 0));
    assert_eq!(first.annotations[REVISION], "3");
    assert_eq!(first.annotations[revision::REVISION_HISTORY], "1");
    assert_eq!(model.annotations[REVISION], "3");
}

#[test]
fn history_beyond_the_limit_goes_oldest_first() {
    let mut model = Model::rolling(1, &json!(1), &json!(0));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        model.set_image(image);
        model.settle(|_| ());
    }
    let revisions: Vec<&str> = model
        .sets
        .iter()
        .map(|set| set.annotations[REVISION].as_str())
        .collect();
    assert_eq!(revisions, ["3", "4", "5"]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut model = Model::new(3, &json!({"type": "Recreate"}));
    model.settle(|_| ());
    model.set_image("v2");
    model.pods = vec![from_json(json!({
        "metadata": {
            "name": "old", "namespace": "default", "deletionTimestamp": NOW,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": model.sets[0].name, "controller": true}],
        },
        "status": {"phase": "Running"},
    }))];
    model.settle(|_| ());
    assert_eq!((model.sets.len(), model.asked()), (1, 0));
    assert_eq!(model.condition("Available").0, "False");
    model.pods.clear();
    model.settle(|model| assert!(model.sets[0].replicas == 0));
    assert_eq!((model.sets.len(), model.available()), (2, 3));
}

#[test]
fn a_pause_stops_the_roll_out_but_not_scaling() {
    let mut model = Model::rolling(4, &json!(1), &json!(1));
    model.settle(|_| ());
    model.spec["paused"] = true.into();
    model.set_image("v2");
    model.settle(|_| ());
    assert_eq!(model.sets.len(), 1);
    assert_eq!(
        model.condition("Progressing"),
        ("Unknown".into(), "DeploymentPaused".into())
    );
    model.spec["replicas"] = 6.into();
    model.generation += 1;
    model.settle(|_| ());
    assert_eq!((model.sets.len(), model.available()), (1, 6));
    model.spec["paused"] = false.into();
    model.step();
    assert_eq!(
        model.condition("Progressing"),
        ("True".into(), "NewReplicaSetCreated".into())
    );
    model.settle(|_| ());
    assert_eq!((model.sets.len(), model.sets[1].available), (2, 6));
}

#[test]
fn a_new_size_amid_a_roll_out_is_shared_out() {
    let mut model = Model::rolling(10, &json!(3), &json!(2));
    model.settle(|_| ());
    model.set_image("v2");
    while model.step() {}
    assert_eq!(model.sets.iter().map(|set| set.replicas).collect::<Vec<_>>(), [8, 5]);
    model.spec["replicas"] = 15.into();
    model.generation += 1;
    model.step();
    // The example of the Kubernetes documentation ("Proportional scaling").
    assert_eq!(model.sets.iter().map(|set| set.replicas).collect::<Vec<_>>(), [11, 7]);
    model.settle(|_| ());
    assert_eq!(model.sets.iter().map(|set| set.available).collect::<Vec<_>>(), [0, 15]);
    for replicas in [0, 2] {
        model.spec["replicas"] = replicas.into();
        model.generation += 1;
        model.settle(|_| ());
        assert_eq!((model.asked(), model.available()), (replicas, replicas));
    }
}

#[test]
fn sets_keep_their_share_when_the_size_shrinks_amid_a_roll_out() {
    let mut model = Model::rolling(10, &json!(3), &json!(2));
    model.settle(|_| ());
    model.set_image("v2");
    while model.step() {}
    model.spec["replicas"] = 5.into();
    model.generation += 1;
    model.step();
    assert_eq!(model.asked(), 8);
    assert!(model.sets.iter().all(|set| set.replicas > 0));
}

#[test]
fn lack_of_progress_is_said_after_the_deadline() {
    let mut model = Model::rolling(2, &json!(1), &json!(0));
    model.settle(|_| ());
    model.set_image("broken");
    while model.step() {}
    assert_eq!(
        model.condition("Progressing"),
        ("True".into(), "ReplicaSetUpdated".into())
    );
    assert_eq!((model.asked(), model.available()), (3, 2));
    let waiting = model.plan_at(now());
    assert_eq!(waiting.again, Some(Duration::from_secs(601)));
    let late = model.plan_at(now() + jiff::SignedDuration::from_secs(601));
    let condition = condition(&late.status.conditions, PROGRESSING).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref()),
        ("False", Some("ProgressDeadlineExceeded"))
    );
    assert!(
        condition
            .message
            .as_deref()
            .unwrap()
            .ends_with("has timed out progressing.")
    );
    assert_eq!(late.again, None);
}

#[test]
fn a_collision_of_names_leads_to_another_name() {
    let mut model = Model::rolling(1, &json!(1), &json!(0));
    let first = model.plan_at(now()).create.unwrap();
    assert_eq!(first.name, format!("web-{}", first.hash));
    assert_eq!(model.plan_at(now()).create.unwrap().name, first.name);
    model.status = json!({"collisionCount": 1});
    let second = model.plan_at(now());
    assert_ne!(second.create.unwrap().name, first.name);
    assert_eq!(second.status.collision_count, Some(1));
}

#[test]
fn a_template_is_the_same_whatever_hash_and_nulls_it_carries() {
    let plain = revision_template(&template("v1"));
    let mut marked = template("v1");
    marked["metadata"]["labels"]["pod-template-hash"] = "abc".into();
    marked["metadata"]["creationTimestamp"] = Value::Null;
    marked["metadata"]["annotations"] = json!({});
    assert!(revision::same_template(&plain, &revision_template(&marked)));
    assert_eq!(
        template_hash(&plain, None),
        template_hash(&revision_template(&marked), None)
    );
    assert!(!revision::same_template(&plain, &revision_template(&template("v2"))));
    // An empty value inside the spec means something: a volume of that kind.
    let mut volume = template("v1");
    volume["spec"]["volumes"] = json!([{"name": "a", "emptyDir": {}}]);
    let mut other = volume.clone();
    other["spec"]["volumes"][0] = json!({"name": "a"});
    assert!(!revision::same_template(
        &revision_template(&volume),
        &revision_template(&other)
    ));
}

fn revision_template(value: &Value) -> crate::objects::replica_set::Template {
    crate::objects::replica_set::Template::new(value)
}

#[test]
fn annotations_are_handed_down_but_for_those_of_the_tools() {
    let mut model = Model::rolling(1, &json!(1), &json!(0));
    model
        .annotations
        .insert("kubernetes.io/change-cause".into(), "first".into());
    model
        .annotations
        .insert("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
    let annotations = model.plan_at(now()).create.unwrap().annotations;
    let expected = [
        (DESIRED_REPLICAS, "1"),
        (revision::MAX_REPLICAS, "2"),
        (REVISION, "1"),
        ("kubernetes.io/change-cause", "first"),
    ];
    assert_eq!(
        annotations,
        expected
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    );
}
