//! Which addresses and ports a service gets: Kubernetes' `alloc.go`, without side effects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use minidc_api::validate::FieldError;
use minidc_api::validate::service::needs_health_check;
use serde_json::{Map, Value, json};

use super::families;
use super::order::{order, reserved};
use super::range::Range;

/// Kubernetes' default range of node ports.
const FIRST_PORT: u16 = 30_000;
const LAST_PORT: u16 = 32_767;
const PORTS: u16 = LAST_PORT - FIRST_PORT + 1;

const ALLOCATED_IP: &str = "provided IP is already allocated";
const ALLOCATED_PORT: &str = "provided port is already allocated";
const FULL: &str = "range is full";

/// What is taken, by whomever.
pub(super) struct Taken<'a> {
    /// True for an address that is held.
    pub(super) address: &'a dyn Fn(IpAddr) -> bool,
    /// True for a node port that is held.
    pub(super) port: &'a dyn Fn(u16) -> bool,
    /// Where to begin looking for free ones.
    pub(super) random: u64,
}

/// Why a service does not get what it asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// It asks for what it cannot have.
    Fields(Vec<FieldError>),
    /// Nothing is left.
    Full(String),
}

impl Refusal {
    fn field(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}

/// What a service has to itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// Cluster IPs.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Node ports, that for health checks included.
    pub(super) ports: BTreeSet<u16>,
}

fn kind(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or("")
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

fn ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["ports"].as_array().into_iter().flatten()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

impl Holdings {
    /// What the spec of a service says it has.
    pub(super) fn of(spec: &Value) -> Self {
        let mut held = Self::default();
        if kind(spec) != "ExternalName" {
            let listed = spec["clusterIPs"].as_array().into_iter().flatten();
            // A service stored by an older version has only the one.
            let all = listed.chain(std::iter::once(&spec["clusterIP"]));
            held.addresses
                .extend(all.filter_map(Value::as_str).filter_map(|ip| ip.parse::<IpAddr>().ok()));
        }
        let mut add = |port: &Value| {
            if let Some(port) = u16::try_from(number(port)).ok().filter(|port| *port != 0) {
                held.ports.insert(port);
            }
        };
        if has_node_ports(spec) {
            ports(spec).for_each(|port| add(&port["nodePort"]));
        }
        if needs_health_check(spec) {
            add(&spec["healthCheckNodePort"]);
        }
        held
    }

    /// What is held here and not there.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self {
            addresses: self.addresses.difference(&other.addresses).copied().collect(),
            ports: self.ports.difference(&other.ports).copied().collect(),
        }
    }
}

/// Completes the spec of a service. `old` is what is stored of it.
///
/// # Errors
/// It asks for what it cannot have, or nothing is left; in Kubernetes' words.
pub(super) fn fill(
    spec: &mut Map<String, Value>,
    old: Option<&Value>,
    ranges: &[Range],
    taken: &Taken<'_>,
) -> Result<(), Refusal> {
    let held = old.map(Holdings::of).unwrap_or_default();
    if spec.get("type").is_none_or(|kind| kind != "ExternalName") {
        families::settle(spec, old, ranges).map_err(Refusal::Fields)?;
        if spec.get("clusterIP").is_none_or(|ip| ip != "None") {
            addresses(spec, &held, ranges, taken)?;
        }
    }
    node_ports(spec, old.is_some(), &held, taken)
}

fn addresses(
    spec: &mut Map<String, Value>,
    held: &Holdings,
    ranges: &[Range],
    taken: &Taken<'_>,
) -> Result<(), Refusal> {
    let list = |field: &str| spec.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let (families, asked) = (list("ipFamilies"), list("clusterIPs"));
    let mut given = Vec::with_capacity(families.len());
    for (position, family) in families.iter().enumerate() {
        let range = ranges.iter().find(|range| family == range.family());
        let Some(range) = range else { continue };
        let text = asked.get(position).and_then(Value::as_str).unwrap_or("");
        if text.is_empty() {
            let free = range
                .candidates(taken.random)
                .find(|address| !(taken.address)(*address));
            let free = free.ok_or_else(|| Refusal::Full(format!("failed to allocate a serviceIP: {FULL}")))?;
            given.push(free.to_string());
            continue;
        }
        // Others were refused before.
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        if !held.addresses.contains(&address) {
            let problem = if !range.holds(address) {
                Some(format!(
                    "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
                ))
            } else {
                (taken.address)(address).then(|| ALLOCATED_IP.to_owned())
            };
            if let Some(problem) = problem {
                let detail = format!("failed to allocate IP {address}: {problem}");
                return Err(Refusal::field(FieldError::invalid(
                    "spec.clusterIPs",
                    json!(asked),
                    detail,
                )));
            }
        }
        // As it was written: an address has several spellings in IPv6, and what was asked for stays as it is.
        given.push(text.to_owned());
    }
    if let Some(first) = given.first() {
        spec.insert("clusterIP".to_owned(), first.as_str().into());
        spec.insert("clusterIPs".to_owned(), json!(given));
    }
    Ok(())
}

/// Ports that are being given to one service.
struct Giving<'a> {
    taken: &'a Taken<'a>,
    /// What it has, and what it got by now.
    mine: BTreeSet<u16>,
    /// What it asks for, which must not be given to another port of it.
    asked: BTreeSet<u16>,
}

impl Giving<'_> {
    /// Takes a certain port.
    fn take(&mut self, port: i64) -> Result<(), String> {
        let number = u16::try_from(port).ok();
        let Some(number) = number.filter(|number| (FIRST_PORT..=LAST_PORT).contains(number)) else {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {FIRST_PORT}-{LAST_PORT}"
            ));
        };
        if (self.taken.port)(number) || !self.mine.insert(number) {
            return Err(ALLOCATED_PORT.to_owned());
        }
        Ok(())
    }

    /// Takes any port.
    fn choose(&mut self) -> Option<u16> {
        let low = reserved(u128::from(PORTS), 32, 128);
        let free = order(u64::from(PORTS), low, self.taken.random)
            .filter_map(|index| u16::try_from(index).ok())
            .map(|index| FIRST_PORT + index)
            .find(|port| !self.mine.contains(port) && !self.asked.contains(port) && !(self.taken.port)(*port))?;
        self.mine.insert(free);
        Some(free)
    }
}

fn node_ports(
    spec: &mut Map<String, Value>,
    is_update: bool,
    held: &Holdings,
    taken: &Taken<'_>,
) -> Result<(), Refusal> {
    let whole = Value::Object(spec.clone());
    let mut giving = Giving {
        taken,
        mine: held.ports.clone(),
        asked: ports(&whole)
            .filter_map(|port| u16::try_from(number(&port["nodePort"])).ok())
            .collect(),
    };
    if has_node_ports(&whole) {
        let every = kind(&whole) == "NodePort" || whole["allocateLoadBalancerNodePorts"] != false;
        let mut list: Vec<Value> = ports(&whole).cloned().collect();
        if is_update {
            for_changed(&mut list, every, held, &mut giving)?;
        } else {
            for_new(&mut list, every, &mut giving)?;
        }
        if !list.is_empty() {
            spec.insert("ports".to_owned(), list.into());
        }
    }
    if needs_health_check(&whole) {
        let asked = number(&whole["healthCheckNodePort"]);
        let kept = u16::try_from(asked).is_ok_and(|port| held.ports.contains(&port));
        if asked == 0 {
            let port = giving
                .choose()
                .ok_or_else(|| Refusal::Full(format!("failed to allocate a HealthCheck NodePort 0: {FULL}")))?;
            spec.insert("healthCheckNodePort".to_owned(), port.into());
        } else if !kept {
            giving.take(asked).map_err(|problem| {
                Refusal::Full(format!(
                    "failed to allocate requested HealthCheck NodePort {asked}: {problem}"
                ))
            })?;
        }
    }
    Ok(())
}

fn refused(position: usize, port: i64, problem: String) -> Refusal {
    let path = format!("spec.ports[{position}].nodePort");
    Refusal::field(FieldError::invalid(path, port, problem))
}

fn none_left() -> Refusal {
    Refusal::Full(format!("failed to allocate a nodePort: {FULL}"))
}

/// Ports of a new service. Those that share a number, as TCP and UDP of DNS do, share their node port.
fn for_new(list: &mut [Value], every: bool, giving: &mut Giving<'_>) -> Result<(), Refusal> {
    let mut given: BTreeMap<i64, i64> = BTreeMap::new();
    for position in 0..list.len() {
        let (port, asked) = (number(&list[position]["port"]), number(&list[position]["nodePort"]));
        if asked == 0 && !every {
            continue;
        }
        match given.get(&port) {
            None => {
                let twin = list
                    .iter()
                    .filter(|other| number(&other["port"]) == port)
                    .map(|other| number(&other["nodePort"]))
                    .find(|number| *number != 0);
                let number = if let Some(number) = twin {
                    giving
                        .take(number)
                        .map_err(|problem| refused(position, number, problem))?;
                    number
                } else {
                    giving.choose().ok_or_else(none_left)?.into()
                };
                list[position]["nodePort"] = number.into();
                given.insert(port, number);
            }
            Some(shared) if asked == 0 => list[position]["nodePort"] = (*shared).into(),
            Some(shared) if asked == *shared => {}
            Some(_) => giving
                .take(asked)
                .map_err(|problem| refused(position, asked, problem))?,
        }
    }
    Ok(())
}

/// Ports of a service that is being changed.
fn for_changed(list: &mut [Value], every: bool, held: &Holdings, giving: &mut Giving<'_>) -> Result<(), Refusal> {
    let mut added: BTreeSet<i64> = BTreeSet::new();
    for (position, port) in list.iter_mut().enumerate() {
        let asked = number(&port["nodePort"]);
        let kept = u16::try_from(asked).is_ok_and(|port| held.ports.contains(&port));
        if asked == 0 {
            if every {
                port["nodePort"] = giving.choose().ok_or_else(none_left)?.into();
            }
        } else if !kept && added.insert(asked) {
            giving
                .take(asked)
                .map_err(|problem| refused(position, asked, problem))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
