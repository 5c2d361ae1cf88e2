//! The range that services get their addresses from: the `ServiceCIDR` object `kubernetes`, made from the configuration.

use std::net::IpAddr;

use minidc_store::{Entry, Op, Store, When};
use serde_json::{Value, json};

use super::allotment::Holdings;
use super::range::Range;
use super::{claims, create, row};
use crate::error::Failure;
use crate::object::{self, child};

/// Name of the one object.
pub(super) const NAME: &str = "kubernetes";
const KEY: &str = "networking.k8s.io/servicecidrs//kubernetes";

/// Which address of the range answers DNS, as in Kubernetes.
const DNS: u64 = 10;
/// Addresses that a range must have at least: the API, DNS, and some services.
const LEAST: u64 = 14;

/// The ranges in force, at most one per IP family; none before the server's bootstrap.
pub(crate) fn in_force(store: &Store) -> Vec<Range> {
    let Some(entry) = store.get(KEY) else { return Vec::new() };
    object::parse(&entry).map(|object| of(&object)).unwrap_or_default()
}

fn of(object: &Value) -> Vec<Range> {
    let listed = object["spec"]["cidrs"].as_array().into_iter().flatten();
    listed.filter_map(|range| Range::parse(range.as_str()?)).collect()
}

/// Reads the configured range.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn configured(text: &str) -> Result<Range, &'static str> {
    let range = Range::parse(text).ok_or("it is no range of addresses such as 100.65.0.0/16")?;
    if range.usable() < LEAST {
        return Err("it is too small: a /28 is the least");
    }
    Ok(range)
}

/// What the configured range means for the store.
pub(super) enum Change {
    /// Nothing: it is in force.
    None,
    /// It comes into force; what must be written for that.
    Now(Vec<Op>),
    /// Another one stays in force, since services have addresses out of it; what is to be written says so.
    Later(Range, Vec<Op>),
}

/// Compares the configured range with the one in force.
pub(super) fn change(store: &Store, wanted: Range) -> Result<Change, Failure> {
    let entry = store.get(KEY);
    let Some(entry) = entry else {
        let mut operations = vec![create(KEY.to_owned(), seal(&fresh(wanted))?)];
        operations.extend(reserve_dns(wanted)?);
        return Ok(Change::Now(operations));
    };
    let object = object::parse(&entry)?;
    let current = of(&object);
    let put = |object: &Value| -> Result<Vec<Op>, Failure> {
        Ok(vec![Op::Put {
            key: KEY.to_owned(),
            envelope: seal(object)?,
            when: When::Is(entry.revision),
        }])
    };
    if current == [wanted] {
        let ready = with_condition(&object, &Condition::Ready);
        return Ok(if ready == object {
            Change::None
        } else {
            Change::Now(put(&ready)?)
        });
    }
    let first = current.first().copied();
    if let Some(current) = first
        && is_used(store)
    {
        return Ok(Change::Later(
            current,
            put(&with_condition(&object, &Condition::Inconsistent(current, wanted)))?,
        ));
    }
    // Nobody has an address but the API itself and DNS, which move.
    let mut operations = put(&fresh(wanted))?;
    let dropped = first
        .and_then(|range| range.nth(DNS))
        .and_then(|address| claim(store, address));
    operations.extend(dropped.as_ref().map(claims::drop_claim));
    operations.extend(reserve_dns(wanted)?);
    operations.extend(super::kubernetes::removal(store));
    Ok(Change::Now(operations))
}

fn claim(store: &Store, address: IpAddr) -> Option<Entry> {
    store.get(&format!("{}{address}", claims::ADDRESSES))
}

/// True when a service other than the API's own has an address.
fn is_used(store: &Store) -> bool {
    let (services, _) = store.list("core/services/");
    services
        .iter()
        .filter(|entry| &*entry.key != super::kubernetes::SERVICE)
        .filter_map(|entry| object::parse(entry).ok())
        .any(|service| !Holdings::of(&service["spec"]).addresses.is_empty())
}

/// The claim that keeps the address of DNS from services; it has none of its own, the nodes answer there.
fn reserve_dns(range: Range) -> Result<Option<Op>, Failure> {
    let Some(address) = range.nth(DNS) else { return Ok(None) };
    let parent = json!({"group": "minidc.dev", "resource": "dns", "name": "cluster"});
    claims::take_address(address, &parent).map(Some)
}

fn seal(object: &Value) -> Result<minidc_store::Envelope, Failure> {
    object::seal(row("networking.k8s.io", "servicecidrs")?, object)
}

fn fresh(range: Range) -> Value {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {
            "name": NAME,
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": object::now(),
        },
        "spec": {"cidrs": [range.to_string()]},
    });
    with_condition(&object, &Condition::Ready)
}

enum Condition {
    Ready,
    Inconsistent(Range, Range),
}

impl Condition {
    fn parts(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::Ready => ("True", "InForce", "Kubernetes Service CIDR is ready".to_owned()),
            Self::Inconsistent(current, wanted) => (
                "True",
                "KubernetesDefaultServiceCIDRInconsistent",
                format!(
                    "the configured service-range {wanted} does not match {current}, which stays in force because \
                     services have addresses out of it; to change it, delete them all and restart the control plane"
                ),
            ),
        }
    }
}

/// The object with its one condition, unchanged when that says the same already.
fn with_condition(object: &Value, condition: &Condition) -> Value {
    let (status, reason, message) = condition.parts();
    let found = &object["status"]["conditions"][0];
    if found["reason"] == reason && found["message"] == message.as_str() {
        return object.clone();
    }
    let mut object = object.clone();
    let conditions = json!([{
        "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": object::now()
    }]);
    child(&mut object, "status").insert("conditions".to_owned(), conditions);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_must_be_one_and_large_enough() {
        assert_eq!(
            configured("100.65.0.0/16").map(|range| range.to_string()).as_deref(),
            Ok("100.65.0.0/16")
        );
        assert!(configured("100.65.0.0/28").is_ok());
        assert!(configured("100.65.0.0/29").unwrap_err().contains("too small"));
        assert!(configured("100.65.0.0").unwrap_err().contains("no range"));
    }
}
