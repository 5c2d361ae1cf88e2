//! Names for people: what a laptop on the rack's network opens with nothing configured.

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{PATIENCE, Rack, eventually};
use serde_json::Value;

use crate::services::apply;

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_laptop_opens_load_balancers_by_their_names",
        a_laptop_opens_load_balancers_by_their_names,
    ),
    (
        "a_laptop_opens_the_api_by_the_name_of_the_cluster",
        a_laptop_opens_the_api_by_the_name_of_the_cluster,
    ),
    (
        "the_first_owner_keeps_a_name_and_the_loser_is_told",
        the_first_owner_keeps_a_name_and_the_loser_is_told,
    ),
    ("a_name_moves_when_its_node_dies", a_name_moves_when_its_node_dies),
    (
        "a_name_goes_with_its_service_and_comes_back_with_avahi",
        a_name_goes_with_its_service_and_comes_back_with_avahi,
    ),
];

/// Kubernetes' own label for nodes that no load balancer is to use.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A machine beside the rack, made when it is first needed.
pub(crate) fn guest<'a>(rack: &Rack, name: &'a str) -> Result<&'a str> {
    if rack.in_node(name, &["true"]).is_err() {
        rack.rack("guest", &[name])?;
    }
    Ok(name)
}

fn curl(rack: &Rack, machine: &str, url: &str) -> Result<String> {
    let words = [
        "curl",
        "-ksS",
        "--noproxy",
        "*",
        "--connect-timeout",
        "1",
        "--max-time",
        "10",
        url,
    ];
    Ok(rack.in_node(machine, &words)?.trim().to_owned())
}

/// Makes a Service of type LoadBalancer for the pods of echo.
fn expose(rack: &Rack, namespace: &str, name: &str, port: u16) -> Result<()> {
    let service = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "echo"},
            "ports": [{"port": port, "targetPort": 8080}],
        },
    });
    rack.kubectl_with(&["apply", "-f", "-"], &service.to_string()).map(drop)
}

fn delete(rack: &Rack, namespace: &str, name: &str) -> Result<()> {
    rack.kubectl(&["delete", "service", name, "-n", namespace, "--ignore-not-found"])
        .map(drop)
}

/// The node that announces a Service, and its address.
fn announcer(rack: &Rack, name: &str) -> Result<(String, String)> {
    let mut found = None;
    eventually(PATIENCE, format!("somebody announces {name}"), || {
        let service = rack.get(&["service", name])?;
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        found = Some((
            text("/metadata/annotations/minidc.dev~1announced-by").context("announced by nobody")?,
            text("/status/loadBalancer/ingress/0/ip").context("no address")?,
        ));
        Ok(true)
    })?;
    found.context("nothing")
}

/// The first IPv4 address that a machine finds for a name within Avahi's five seconds; `None` if it hears of none.
fn resolve_once(rack: &Rack, machine: &str, name: &str) -> Result<Option<String>> {
    let answer = rack.in_node(
        machine,
        &["sh", "-c", &format!("avahi-resolve-host-name -4 {name} 2>&1")],
    )?;
    match answer.split_whitespace().collect::<Vec<_>>()[..] {
        [_, address] => Ok(Some(address.to_owned())),
        _ if answer.contains("Timeout reached") => Ok(None),
        _ => bail!("{machine} on {name}: {answer}"),
    }
}

/// The first IPv4 address that a machine finds for a name.
fn resolve(rack: &Rack, machine: &str, name: &str) -> Result<String> {
    let mut found = None;
    eventually(PATIENCE, format!("{machine} finds {name}"), || {
        found = resolve_once(rack, machine, name)?;
        Ok(found.is_some())
    })?;
    found.context("nothing")
}

fn is_not_found(rack: &Rack, machine: &str, name: &str) -> Result<()> {
    eventually(PATIENCE, format!("{machine} finds no {name}"), || {
        Ok(resolve_once(rack, machine, name)?.is_none())
    })
    .map(drop)
}

fn event(rack: &Rack, namespace: &str, service: &str, reason: &str) -> Result<String> {
    let about = format!("involvedObject.kind=Service,involvedObject.name={service},reason={reason}");
    let mut message = String::new();
    eventually(PATIENCE, format!("event {reason} on {namespace}/{service}"), || {
        let events = rack.get(&["events", "-n", namespace, "--field-selector", &about])?;
        message = events
            .pointer("/items/0/message")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        Ok(!message.is_empty())
    })?;
    Ok(message)
}

fn a_laptop_opens_load_balancers_by_their_names(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let laptop = guest(rack, "laptop")?;
    rack.kubectl_with(
        &["apply", "-f", "-"],
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}"#,
    )?;
    expose(rack, "default", "shop", 80)?;
    // the pods are in namespace default: this name leads to a port that is refused, but it leads there
    expose(rack, "team", "shop", 81)?;
    let pods: Vec<String> = rack.ready_pods("app=echo")?.into_iter().map(|pod| pod.name).collect();
    eventually(PATIENCE, "http://shop.local answers", || {
        let said = curl(rack, laptop, "http://shop.local/")?;
        ensure!(pods.contains(&said), "{said}");
        Ok(true)
    })?;
    let (node, address) = announcer(rack, "shop")?;
    ensure!(
        resolve(rack, laptop, "shop.local")? == address,
        "the name leads to another address than the status says"
    );
    ensure!(resolve(rack, laptop, &format!("{node}.local"))? == address);
    resolve(rack, laptop, "shop-team.local")?;
    delete(rack, "default", "shop")?;
    rack.kubectl(&["delete", "namespace", "team"])?;
    is_not_found(rack, laptop, "shop-team.local")
}

fn a_laptop_opens_the_api_by_the_name_of_the_cluster(rack: &Rack) -> Result<()> {
    let laptop = guest(rack, "laptop")?;
    let url = format!("https://{}.local:6443/version", rack.name);
    eventually(PATIENCE, &url, || {
        let said = curl(rack, laptop, &url)?;
        ensure!(said.contains("gitVersion"), "{said}");
        Ok(true)
    })
    .map(drop)
}

fn the_first_owner_keeps_a_name_and_the_loser_is_told(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let laptop = guest(rack, "laptop")?;
    let owner = resolve(rack, laptop, "laptop.local")?;
    expose(rack, "default", "laptop", 82)?;
    let message = event(rack, "default", "laptop", "NameTaken")?;
    ensure!(message.contains("laptop.local"), "{message}");
    ensure!(resolve(rack, "pi-1", "laptop.local")? == owner);
    // it has its address all the same
    let (_, address) = announcer(rack, "laptop")?;
    eventually(PATIENCE, "the address without the name", || {
        curl(rack, laptop, &format!("http://{address}:82/")).map(|_| true)
    })?;
    delete(rack, "default", "laptop")?;
    for (name, port) in [("pi-2", 83), ("cluster", 84)] {
        expose(rack, "default", name, port)?;
        let message = event(rack, "default", name, "LocalNameReserved")?;
        ensure!(message.contains(&format!("{name}.local")), "{message}");
        delete(rack, "default", name)?;
    }
    Ok(())
}

fn a_name_moves_when_its_node_dies(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let laptop = guest(rack, "laptop")?;
    // the control plane's own node cannot be the one that dies here
    rack.kubectl(&["label", "node", "pi-1", &format!("{EXCLUDED}=")])?;
    let moved = move_away(rack, laptop);
    rack.kubectl(&["label", "node", "pi-1", &format!("{EXCLUDED}-")])?;
    delete(rack, "default", "moving")?;
    moved
}

fn move_away(rack: &Rack, laptop: &str) -> Result<()> {
    expose(rack, "default", "moving", 85)?;
    eventually(PATIENCE, "moving.local answers", || {
        curl(rack, laptop, "http://moving.local:85/").map(|_| true)
    })?;
    let (node, before) = announcer(rack, "moving")?;
    ensure!(node != "pi-1", "an excluded node was chosen");
    rack.rack("unplug", &[&node])?;
    let took = eventually(PATIENCE, "moving.local answers again", || {
        curl(rack, laptop, "http://moving.local:85/").map(|_| true)
    });
    let after = announcer(rack, "moving");
    rack.rack("plug", &[&node])?;
    println!("a name moved {:.1?} after its node lost power", took?);
    let (_, after) = after?;
    ensure!(after != before);
    ensure!(resolve(rack, laptop, "moving.local")? == after);
    rack.await_nodes()?;
    // the one that is back does not take it from the other
    ensure!(resolve(rack, laptop, "moving.local")? == after);
    ensure!(announcer(rack, "moving")?.1 == after);
    Ok(())
}

fn a_name_goes_with_its_service_and_comes_back_with_avahi(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let laptop = guest(rack, "laptop")?;
    expose(rack, "default", "shop", 80)?;
    resolve(rack, laptop, "shop.local")?;
    let (node, _) = announcer(rack, "shop")?;
    for daemon in ["avahi-daemon", "dbus-daemon"] {
        rack.in_node(&node, &["pkill", "-KILL", "-x", daemon])?;
        // asked on the node itself, so that no laptop's memory answers
        resolve(rack, &node, "shop.local").with_context(|| format!("{daemon} was killed"))?;
    }
    delete(rack, "default", "shop")?;
    is_not_found(rack, laptop, "shop.local")
}
