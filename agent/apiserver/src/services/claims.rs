//! Claims on addresses and ports as the store keeps them.

use std::fmt;
use std::net::IpAddr;

use minidc_store::{Entry, Envelope, Op, Store, When};
use serde_json::json;

use super::allotment::Holdings;
use super::{create, row};
use crate::error::Failure;
use crate::object;

/// Start of the store keys of `IPAddress` objects.
pub(super) const ADDRESSES: &str = "networking.k8s.io/ipaddresses//";
/// Start of the store keys of held node ports. They are no kind of the API: Kubernetes has none for them.
pub(super) const PORTS: &str = "minidc.dev/nodeports//";

/// Label that says who made an `IPAddress`, and its value for those made here, as in Kubernetes.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

const OF_ADDRESS: Fields = Fields {
    namespace: "spec.parentRef.namespace",
    name: "spec.parentRef.name",
};
const OF_PORT: Fields = Fields {
    namespace: "namespace",
    name: "name",
};

/// Under which fields of a stored entry its holder is named.
struct Fields {
    namespace: &'static str,
    name: &'static str,
}

impl Fields {
    fn holder(&self, entry: &Entry) -> Holder {
        let field = |path| entry.envelope.field(path).unwrap_or_default().to_owned();
        Holder {
            namespace: field(self.namespace),
            name: field(self.name),
        }
    }
}

/// The service that holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return formatter.write_str("the DNS of the cluster");
        }
        write!(formatter, "service {}/{}", self.namespace, self.name)
    }
}

fn address_key(address: IpAddr) -> String {
    format!("{ADDRESSES}{address}")
}

fn port_key(port: u16) -> String {
    format!("{PORTS}{port}")
}

/// Who holds an address.
pub(super) fn holder_of_address(store: &Store, address: IpAddr) -> Option<Holder> {
    store.get(&address_key(address)).map(|entry| OF_ADDRESS.holder(&entry))
}

/// Who holds a node port.
pub(super) fn holder_of_port(store: &Store, port: u16) -> Option<Holder> {
    store.get(&port_key(port)).map(|entry| OF_PORT.holder(&entry))
}

/// What a service has now; nothing where there is none.
fn holdings(store: &Store, holder: &Holder) -> Holdings {
    let key = format!("core/services/{}/{}", holder.namespace, holder.name);
    let service = store.get(&key).and_then(|entry| object::parse(&entry).ok());
    service
        .map(|service| Holdings::of(&service["spec"]))
        .unwrap_or_default()
}

/// Who holds an address and relies on it: its claim must stay. Claims that people made and that no service has are theirs
/// to delete.
pub(super) fn user_of_address(store: &Store, address: IpAddr) -> Option<Holder> {
    let entry = store.get(&address_key(address))?;
    let holder = OF_ADDRESS.holder(&entry);
    let used = if holder.namespace.is_empty() {
        is_ours(&entry)
    } else {
        holdings(store, &holder).addresses.contains(&address)
    };
    used.then_some(holder)
}

/// True for a claim made here for a service that is gone or has no use for it.
pub(super) fn is_nobodys(store: &Store, claim: &Entry) -> bool {
    let holder = holder(claim);
    if let Some(port) = claim.key.strip_prefix(PORTS) {
        return !port
            .parse()
            .is_ok_and(|port| holdings(store, &holder).ports.contains(&port));
    }
    let address = claim
        .key
        .strip_prefix(ADDRESSES)
        .and_then(|address| address.parse().ok());
    // That of DNS is no service's.
    let is_for_service = is_ours(claim) && !holder.namespace.is_empty();
    is_for_service && address.is_none_or(|address| !holdings(store, &holder).addresses.contains(&address))
}

/// True for a claim on an address that was made here.
fn is_ours(entry: &Entry) -> bool {
    entry.envelope.label(MANAGED_BY) == Some(MANAGER)
}

/// The service a claim on an address or a port names.
fn holder(entry: &Entry) -> Holder {
    let fields = if entry.key.starts_with(PORTS) {
        OF_PORT
    } else {
        OF_ADDRESS
    };
    fields.holder(entry)
}

/// Operations that claim what was free.
pub(super) fn take(held: &Holdings, namespace: &str, name: &str) -> Result<Vec<Op>, Failure> {
    let mut operations = Vec::with_capacity(held.addresses.len() + held.ports.len());
    for address in &held.addresses {
        let parent = json!({"resource": "services", "namespace": namespace, "name": name});
        operations.push(take_address(*address, &parent)?);
    }
    for port in &held.ports {
        operations.push(create(port_key(*port), port_claim(*port, namespace, name)?));
    }
    Ok(operations)
}

/// The operation that claims an address for an object, by its `ParentReference`.
pub(super) fn take_address(address: IpAddr, parent: &serde_json::Value) -> Result<Op, Failure> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": object::now(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family, MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": parent},
    });
    let envelope = object::seal(row("networking.k8s.io", "ipaddresses")?, &object)?;
    Ok(create(address_key(address), envelope))
}

/// What is stored of a held node port: a service's name, where readers of an entry look without reading JSON, and the same as
/// JSON for whoever looks into the store.
fn port_claim(port: u16, namespace: &str, name: &str) -> Result<Envelope, Failure> {
    const START: &str = "{\"metadata\":{";
    let json = json!({"metadata": {"name": port.to_string()}, "service": {"namespace": namespace, "name": name}});
    let fields = [(OF_PORT.namespace, namespace), (OF_PORT.name, name)];
    let fields = fields.map(|(field, value)| (field.into(), value.into()));
    let splice = u32::try_from(START.len()).map_err(minidc_api::status::Status::internal)?;
    Ok(Envelope::new(
        json.to_string(),
        splice,
        Box::default(),
        Box::new(fields),
    ))
}

/// Operations that give back what a service holds; what somebody else holds by now stays.
pub(super) fn give_back(store: &Store, held: &Holdings, namespace: &str, name: &str) -> Vec<Op> {
    let keys = held.addresses.iter().map(|address| address_key(*address));
    let keys = keys.chain(held.ports.iter().map(|port| port_key(*port)));
    let entries = keys.filter_map(|key| store.get(&key)).filter(|entry| {
        let holder = holder(entry);
        holder.namespace == namespace && holder.name == name
    });
    entries.map(|entry| drop_claim(&entry)).collect()
}

/// The operation that removes a claim.
pub(super) fn drop_claim(entry: &Entry) -> Op {
    Op::Delete {
        key: entry.key.to_string(),
        when: When::Is(entry.revision),
    }
}
