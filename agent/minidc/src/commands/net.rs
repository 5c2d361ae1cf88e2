//! `minidc net check`: every node makes a stand-in for a pod, and each tries to reach those of all others.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

use anyhow::{Context, bail};
use http::{Method, StatusCode};
use minidc_net::check::{Check, NAMESPACE, OFFLINE, PORT, service_name};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::image::is_ready;
use crate::{
    cli::{NetCheckArgs, NetCommand, Output},
    client::{self, Client},
    config::Config,
};

const CHECKS: &str = "/apis/minidc.dev/v1/netchecks";
const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
/// How often the nodes' reports are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs one `net` subcommand.
pub(crate) async fn run(command: NetCommand, config: &Config) -> anyhow::Result<()> {
    let NetCommand::Check(arguments) = command;
    let kubeconfig = client::kubeconfig_path(arguments.client.kubeconfig.as_deref(), config)?;
    let mut api = Client::connect(&kubeconfig).await?;
    let members = members(&api.get("/api/v1/nodes").await?);
    for name in &arguments.node {
        if !members.ready.contains(name) && !members.away.contains(name) {
            bail!("no node {name:?}: see minidc node list");
        }
    }
    let check = NetCheck::ask(&mut api, members).await?;
    let outcome = tokio::select! {
        outcome = check.carry_out(&mut api, arguments.timeout) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // a request that was under way may have been cut off
    let mut api = Client::connect(&kubeconfig).await?;
    let tidied = check.tidy(&mut api).await;
    let rows = rows(&check.members, &outcome?);
    tidied.context("remove what the check made")?;
    report(&rows, &arguments)
}

/// The nodes of the cluster.
struct Members {
    /// Those that take part.
    ready: Vec<String>,
    /// Those that cannot.
    away: Vec<String>,
}

fn members(nodes: &Value) -> Members {
    let (mut ready, mut away) = (Vec::new(), Vec::new());
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if is_ready(node) {
            ready.push(name);
        } else {
            away.push(name);
        }
    }
    Members { ready, away }
}

/// A check under way.
struct NetCheck {
    members: Members,
    id: String,
    name: String,
    /// Of the object: what else is made belongs to it, and goes with it even if this program is killed.
    uid: String,
}

impl NetCheck {
    async fn ask(api: &mut Client, members: Members) -> anyhow::Result<Self> {
        let random = std::hash::RandomState::new().build_hasher().finish();
        let id = format!("{:08x}", random >> 32);
        let name = format!("check-{id}");
        let object = json!({
            "apiVersion": "minidc.dev/v1",
            "kind": "NetCheck",
            "metadata": {"name": name},
            "spec": {"nodes": members.ready, "id": id},
        });
        let made = api.json(Method::POST, CHECKS, JSON, object.to_string().into()).await?;
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(Self { members, id, name, uid })
    }

    fn path(&self) -> String {
        format!("{CHECKS}/{}", self.name)
    }

    /// What the nodes say in the end: `status.nodes`.
    async fn carry_out(&self, api: &mut Client, timeout: Duration) -> anyhow::Result<Value> {
        let deadline = Instant::now() + timeout;
        let joined = self.wait(api, deadline, &["Ready", "Failed"]).await?;
        let mut targets = BTreeMap::new();
        for (place, node) in self.members.ready.iter().enumerate() {
            let Some(address) = joined[node]["address"].as_str() else {
                targets.insert(node, json!({}));
                continue;
            };
            let service = self.make_service(api, place, node, address).await?;
            targets.insert(node, json!({"address": address, "service": service}));
        }
        let patch = json!({"spec": {"targets": targets}});
        api.json(Method::PATCH, &self.path(), MERGE_PATCH, patch.to_string().into())
            .await?;
        self.wait(api, deadline, &["Done", "Failed"]).await
    }

    /// Waits until all nodes have come to one of these phases, or time is up.
    async fn wait(&self, api: &mut Client, deadline: Instant, phases: &[&str]) -> anyhow::Result<Value> {
        loop {
            let mut check = api.get(&self.path()).await?;
            let said = check["status"]["nodes"].take();
            let there = |node: &String| {
                said[node]["phase"]
                    .as_str()
                    .is_some_and(|phase| phases.contains(&phase))
            };
            if self.members.ready.iter().all(there) || Instant::now() >= deadline {
                return Ok(said);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A Service in front of one stand-in, which no selector could find; gives its address.
    async fn make_service(&self, api: &mut Client, place: usize, node: &str, address: &str) -> anyhow::Result<Value> {
        let name = service_name(&self.id, place);
        let metadata = |labels: Value| {
            json!({
                "name": name,
                "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "minidc.dev/v1", "kind": "NetCheck", "name": self.name, "uid": self.uid,
                }],
            })
        };
        let ports =
            ["TCP", "UDP"].map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT}));
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(json!({})),
            "spec": {"ports": ports},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata(json!({
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "net-check.minidc.dev",
            })),
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": node}],
        });
        let made = api
            .json(Method::POST, &services(""), JSON, service.to_string().into())
            .await
            .with_context(|| format!("make the service {name}"))?;
        api.json(Method::POST, &slices(""), JSON, slice.to_string().into())
            .await
            .with_context(|| format!("make the endpoint slice {name}"))?;
        Ok(made["spec"]["clusterIP"].clone())
    }

    async fn tidy(&self, api: &mut Client) -> anyhow::Result<()> {
        let mut paths = vec![self.path()];
        for place in 0..self.members.ready.len() {
            let name = format!("/{}", service_name(&self.id, place));
            paths.extend([slices(&name), services(&name)]);
        }
        for path in paths {
            let (status, body) = api.send(Method::DELETE, &path, JSON, client::full(Vec::new())).await?;
            if status != StatusCode::NOT_FOUND {
                client::expect_success(status, &body)?;
            }
        }
        Ok(())
    }
}

fn services(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services{name}")
}

fn slices(name: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices{name}")
}

/// A line of the table.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    from: String,
    to: String,
    check: String,
    ok: bool,
    detail: String,
}

impl Row {
    fn failed(from: &str, check: &str, detail: String) -> Self {
        Self {
            from: from.to_owned(),
            to: String::new(),
            check: check.to_owned(),
            ok: false,
            detail,
        }
    }
}

/// What the nodes said, and what those did not say that ought to have.
fn rows(members: &Members, said: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for node in &members.ready {
        let report = &said[node];
        let results = report["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        rows.extend(results.iter().map(|result| Row {
            from: node.clone(),
            to: text(&result["to"]),
            check: text(&result["check"]),
            ok: result["ok"] == true,
            detail: text(&result["detail"]),
        }));
        match report["phase"].as_str() {
            Some("Done") => {}
            Some("Failed") => rows.push(Row::failed(node, "stand-in", text(&report["message"]))),
            Some(_) => rows.push(Row::failed(node, "stand-in", "it did not report in time".into())),
            None => rows.push(Row::failed(node, "stand-in", "it was not made in time".into())),
        }
    }
    for node in &members.away {
        rows.push(Row::failed(node, "node", "it is not Ready, and was not checked".into()));
    }
    rows.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
    rows
}

fn report(rows: &[Row], arguments: &NetCheckArgs) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = arguments.node.iter().map(String::as_str).collect();
    let concerns = |row: &&Row| wanted.is_empty() || wanted.contains(&*row.from) || wanted.contains(&*row.to);
    let rows: Vec<&Row> = rows.iter().filter(concerns).collect();
    let failed = rows.iter().filter(|row| !row.ok).count();
    match arguments.output {
        Some(Output::Json) => println!("{:#}", json!({"ok": failed == 0, "results": rows})),
        None => print(&rows),
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", rows.len());
    }
    if arguments.output.is_none() {
        println!("\nall {} checks went well", rows.len());
    }
    Ok(())
}

fn print(rows: &[&Row]) {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let offline = row.check == Check::Outside.as_str() && row.detail.starts_with(OFFLINE);
            let result = match row.ok {
                true if offline => "-",
                true => "ok",
                false => "FAILED",
            };
            let to = if row.to.is_empty() { "-" } else { &row.to };
            [&*row.from, to, &row.check, result, &row.detail]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    super::print_table(&["FROM", "TO", "CHECK", "RESULT", "DETAIL"], &cells);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn nodes_that_say_nothing_or_are_away_are_failures() {
        let members = Members {
            ready: names(&["pi-1", "pi-2", "pi-3", "pi-4"]),
            away: names(&["pi-5"]),
        };
        let said = json!({
            "pi-1": {"phase": "Done", "results": [{"to": "pi-2", "check": "pod", "ok": true, "detail": "0.4 ms"}]},
            "pi-2": {"phase": "Ready", "address": "100.64.1.2"},
            "pi-3": {"phase": "Failed", "message": "no plugin"},
        });
        let found: Vec<(String, bool)> = rows(&members, &said)
            .into_iter()
            .map(|row| (format!("{} {} {}: {}", row.from, row.to, row.check, row.detail), row.ok))
            .collect();
        assert_eq!(
            found,
            [
                ("pi-1 pi-2 pod: 0.4 ms".to_owned(), true),
                ("pi-2  stand-in: it did not report in time".to_owned(), false),
                ("pi-3  stand-in: no plugin".to_owned(), false),
                ("pi-4  stand-in: it was not made in time".to_owned(), false),
                ("pi-5  node: it is not Ready, and was not checked".to_owned(), false),
            ]
        );
    }
}
