//! The service `kubernetes`, by which pods reach the API; what a server does about addresses before the first request.

use std::net::IpAddr;
use std::sync::Arc;

use minidc_api::kinds::Kind;
use minidc_store::{Op, Store};
use serde_json::{Value, json};

use super::allotment::Holdings;
use super::ranges::{self, Change};
use super::{claims, is_service, row};
use crate::call::Call;
use crate::create::create_object;
use crate::error::{Error, Failure};
use crate::object;
use crate::server::Inner;
use crate::strategy::Reach;
use crate::update;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// Store key of the service.
pub(super) const SERVICE: &str = "core/services/default/kubernetes";
/// Where the control plane listens unless it says otherwise.
const DEFAULT_PORT: u16 = 6443;

/// Where the API is reached from outside the cluster's own network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Addresses of the control plane.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its port.
    pub(crate) port: u16,
}

/// Makes the range, the service `kubernetes`, and sees to it that every service has what it says.
///
/// # Errors
/// The configured range cannot be used, or the store refuses.
pub(crate) async fn bootstrap(server: &Arc<Inner>) -> Result<(), Error> {
    let text = &server.options.service_range;
    let wanted = ranges::configured(text).map_err(|problem| Error::ServiceRange {
        range: text.clone(),
        problem,
    })?;
    let refused = |kind: &'static str| {
        move |failure: Failure| Error::Refused {
            kind,
            name: NAME.to_owned(),
            message: failure.to_string(),
        }
    };
    let operations = match ranges::change(&server.store, wanted).map_err(refused("servicecidr"))? {
        Change::None => Vec::new(),
        Change::Now(operations) => operations,
        Change::Later(current, operations) => {
            tracing::warn!(%wanted, %current, "another service-range is configured, but services have addresses out of the one in force, which stays; delete them all and restart to change it");
            operations
        }
    };
    commit(&server.store, operations).await?;
    keep(server).await.map_err(refused("service"))?;
    repair(server).await
}

async fn commit(store: &Store, operations: Vec<Op>) -> Result<(), Error> {
    let Some(key) = operations.first().map(|operation| operation.key().to_owned()) else {
        return Ok(());
    };
    match store.commit(operations).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Store { key, source }),
    }
}

/// As [`commit`], but what somebody else changed meanwhile is left to them.
async fn commit_unless_changed(store: &Store, operations: Vec<Op>) -> Result<(), Error> {
    match commit(store, operations).await {
        Err(Error::Store {
            source: minidc_store::Error::Conflict { .. },
            ..
        }) => Ok(()),
        other => other,
    }
}

/// What removes the service, so that it can be made anew with another address.
pub(super) fn removal(store: &Store) -> Vec<Op> {
    let Some(entry) = store.get(SERVICE) else {
        return Vec::new();
    };
    let mut operations = vec![claims::drop_claim(&entry)];
    if let Ok(service) = object::parse(&entry) {
        operations.extend(claims::give_back(
            store,
            &Holdings::of(&service["spec"]),
            NAMESPACE,
            NAME,
        ));
    }
    operations
}

/// True for the objects that this module keeps.
pub(crate) fn is_kept(kind: &Kind, namespace: &str, name: &str) -> bool {
    let is_kind = is_service(kind)
        || kind.group.is_empty() && kind.kind == "Endpoints"
        || kind.group == "discovery.k8s.io" && kind.kind == "EndpointSlice";
    is_kind && namespace == NAMESPACE && name == NAME
}

/// Makes the service and, as far as addresses are published, its endpoints what they are to be. Writes only what differs.
pub(crate) async fn keep(server: &Arc<Inner>) -> Result<(), Failure> {
    let published = server.published();
    let port = published.as_ref().map_or(DEFAULT_PORT, |published| published.port);
    let Some(range) = ranges::in_force(&server.store).first().copied() else {
        return Ok(());
    };
    let address = range.nth(1).map(|address| address.to_string());
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    ensure(server, row("", "services")?, service, &["spec"]).await?;
    let Some(published) = published else { return Ok(()) };
    let is_v4 = range.family() == "IPv4";
    let reached: Vec<String> = published
        .addresses
        .iter()
        .filter(|address| address.is_ipv4() == is_v4)
        .map(ToString::to_string)
        .collect();
    if reached.is_empty() {
        // A control plane without an address for a moment, as while it is moved, is found where it was once it is back.
        return Ok(());
    }
    let meta = |label: &str, value: &str| json!({"name": NAME, "namespace": NAMESPACE, "labels": {label: value}});
    let addresses: Vec<Value> = reached.iter().map(|ip| json!({"ip": ip})).collect();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": meta("endpointslice.kubernetes.io/skip-mirror", "true"),
        "subsets": [{"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    ensure(server, row("", "endpoints")?, endpoints, &["subsets"]).await?;
    let endpoints: Vec<Value> = reached
        .iter()
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": meta("kubernetes.io/service-name", NAME),
        "addressType": range.family(),
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(
        server,
        row("discovery.k8s.io", "endpointslices")?,
        slice,
        &["addressType", "endpoints", "ports"],
    )
    .await
}

/// Creates an object, or makes the fields given what they are to be in the one that is there.
async fn ensure(server: &Arc<Inner>, kind: &'static Kind, wanted: Value, fields: &[&str]) -> Result<(), Failure> {
    let mut call = Call::own(server, kind, NAMESPACE, NAME);
    if server.store.get(&call.key()).is_none() {
        match create_object(&mut call, wanted.clone()).await {
            Err(failure) if failure.code() == 409 => {}
            other => return other.map(drop),
        }
    }
    let changed = update::modify(&mut call, Reach::Main, |mut object| {
        for (label, value) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
            object["metadata"]["labels"][label.as_str()] = value.clone();
        }
        for field in fields {
            match (&wanted[*field], &mut object[*field]) {
                // What the service was given, or somebody added, stays.
                (Value::Object(wanted), Value::Object(found)) => found.extend(wanted.clone()),
                (wanted, found) => *found = wanted.clone(),
            }
        }
        Ok(object)
    });
    changed.await.map(drop)
}

/// Claims what services of an older version have, gives addresses to those that have none, and drops claims that
/// nobody has: a store may be one that was put together by hand.
async fn repair(server: &Arc<Inner>) -> Result<(), Error> {
    let store = &server.store;
    let (services, _) = store.list("core/services/");
    for entry in &services {
        let Ok(service) = object::parse(entry) else { continue };
        let (namespace, name) = object::key_parts(&entry.key);
        let mine = Holdings::of(&service["spec"]);
        for problem in claim_missing(store, &mine, namespace, name).await? {
            tracing::error!(namespace, service = name, "{problem}");
        }
        let spec = &service["spec"];
        if spec["type"] != "ExternalName" && (spec["clusterIPs"].is_null() || spec["ipFamilies"].is_null()) {
            complete(server, namespace, name).await;
        }
    }
    for prefix in [claims::ADDRESSES, claims::PORTS] {
        for claim in store.list(prefix).0 {
            if claims::is_nobodys(store, &claim) {
                tracing::warn!(key = %claim.key, "a claim that no service has is dropped");
                commit_unless_changed(store, vec![claims::drop_claim(&claim)]).await?;
            }
        }
    }
    Ok(())
}

/// Claims what a service has and nobody claimed; tells what somebody else has.
async fn claim_missing(store: &Store, mine: &Holdings, namespace: &str, name: &str) -> Result<Vec<String>, Error> {
    let mut missing = Holdings::default();
    let mut problems = Vec::new();
    let mut judge = |what: String, holder: Option<claims::Holder>| match holder {
        None => true,
        Some(holder) => {
            if holder.namespace != namespace || holder.name != name {
                problems.push(format!(
                    "the service has {what}, which belongs to {holder}; give it another"
                ));
            }
            false
        }
    };
    for address in &mine.addresses {
        if judge(format!("address {address}"), claims::holder_of_address(store, *address)) {
            missing.addresses.insert(*address);
        }
    }
    for port in &mine.ports {
        if judge(format!("node port {port}"), claims::holder_of_port(store, *port)) {
            missing.ports.insert(*port);
        }
    }
    let operations = claims::take(&missing, namespace, name).map_err(|failure| Error::Refused {
        kind: "ipaddress",
        name: name.to_owned(),
        message: failure.to_string(),
    })?;
    commit_unless_changed(store, operations).await?;
    Ok(problems)
}

/// Gives a service what it lacks. One that cannot be completed must not keep the control plane from starting.
async fn complete(server: &Arc<Inner>, namespace: &str, name: &str) {
    let Ok(kind) = row("", "services") else { return };
    let mut call = Call::own(server, kind, namespace, name);
    if let Err(failure) = update::modify(&mut call, Reach::Main, Ok).await {
        tracing::error!(namespace, service = name, "the service gets no address: {failure}");
    }
}
