//! Addresses and ports of services: who has which, given at admission.
//!
//! An address is held by an `IPAddress` object named after it, a node port by a stored entry named after it. Both are written
//! in the same transaction of the store as the service that gets them, on condition that they were free, and removed in
//! the one in which it loses them. So nothing is ever given twice, by however many servers over one store, and nothing is lost
//! with a power cut; there is no allocator in memory to repair.

use std::net::IpAddr;

use minidc_api::kinds::{self, Kind};
use minidc_api::status::Status;
use minidc_store::{Op, Store, When};
use serde_json::Value;

use crate::error::Failure;
use crate::identity::{Identity, SERVER};
use crate::object;

mod allotment;
mod claims;
mod families;
pub(crate) mod kubernetes;
mod order;
mod prepare;
mod range;
mod ranges;

use allotment::{Holdings, Refusal, Taken};
pub(crate) use prepare::{prepare_create, prepare_update};
pub(crate) use ranges::in_force;

/// True for services.
pub(crate) fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}

fn is_address(kind: &Kind) -> bool {
    kind.group == "networking.k8s.io" && kind.kind == "IPAddress"
}

fn is_range(kind: &Kind) -> bool {
    kind.group == "networking.k8s.io" && kind.kind == "ServiceCIDR"
}

/// A row that this module cannot do without.
fn row(group: &str, plural: &str) -> Result<&'static Kind, Failure> {
    kinds::by_resource(group, "v1", plural)
        .ok_or_else(|| Status::internal(format!("{plural} are missing from the table of kinds")).into())
}

/// Gives a service what it asks for and lacks: IP families, addresses, ports. Returns what must be written with it, in the
/// same transaction, for that to be so. `old` is the stored service, if there is one. Other kinds pass.
pub(crate) fn allot(store: &Store, kind: &Kind, new: &mut Value, old: Option<&Value>) -> Result<Vec<Op>, Failure> {
    if !is_service(kind) {
        return Ok(Vec::new());
    }
    let ranges = in_force(store);
    let address_is_taken = |address: IpAddr| claims::holder_of_address(store, address).is_some();
    let port_is_taken = |port: u16| claims::holder_of_port(store, port).is_some();
    let taken = Taken {
        address: &address_is_taken,
        port: &port_is_taken,
        random: uuid::Uuid::new_v4().as_u64_pair().1,
    };
    let name = object::name(new).to_owned();
    let old_spec = old.map(|old| &old["spec"]);
    let refused = |refusal: Refusal| match refusal {
        Refusal::Fields(errors) => Failure::from(Status::invalid(kind, &name, &errors)),
        Refusal::Full(message) => Status::internal(message).into(),
    };
    allotment::fill(object::child(new, "spec"), old_spec, &ranges, &taken).map_err(refused)?;
    let before = old_spec.map(Holdings::of).unwrap_or_default();
    let after = Holdings::of(&new["spec"]);
    let namespace = object::namespace(new).to_owned();
    let mut operations = claims::take(&after.without(&before), &namespace, &name)?;
    operations.extend(claims::give_back(store, &before.without(&after), &namespace, &name));
    Ok(operations)
}

/// What must be removed together with a service.
pub(crate) fn release(store: &Store, kind: &Kind, service: &Value) -> Vec<Op> {
    if !is_service(kind) {
        return Vec::new();
    }
    let held = Holdings::of(&service["spec"]);
    claims::give_back(store, &held, object::namespace(service), object::name(service))
}

/// Refuses new ranges: there is one, from the configuration.
pub(crate) fn may_create(kind: &Kind, name: &str, identity: &Identity) -> Result<(), Failure> {
    if is_range(kind) && identity.user != SERVER {
        let reason = "there is one range of service addresses, service-range in the configuration of the control plane";
        return Err(Status::forbidden(kind, name, reason).into());
    }
    Ok(())
}

/// Refuses to delete what an address stands on: the range, and claims that a service still relies on.
pub(crate) fn may_delete(store: &Store, kind: &Kind, name: &str) -> Result<(), Failure> {
    let reason = if is_range(kind) {
        "services have their addresses from this range".to_owned()
    } else if is_address(kind) {
        match name
            .parse()
            .ok()
            .and_then(|address| claims::user_of_address(store, address))
        {
            Some(user) => format!("the address is in use by {user}"),
            None => return Ok(()),
        }
    } else {
        return Ok(());
    };
    Err(Status::forbidden(kind, name, &reason).into())
}

/// A put of a new object.
fn create(key: String, envelope: minidc_store::Envelope) -> Op {
    Op::Put {
        key,
        envelope,
        when: When::Absent,
    }
}
