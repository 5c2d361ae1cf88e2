//! The control plane as it runs on a card, written to through kubectl's own proxy.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use minidc_link::pki::ClusterIdentity;
use minidc_store::{Options, Store};
use minidc_tests::{eventually, minidc, run};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    Stage, Subject,
    history::{Found, History, Written},
    replay::Random,
};

pub(crate) const SUBJECT: Subject = Subject {
    name: "api",
    write,
    find,
};

const WRITERS: usize = 3;
const WRITES: usize = 100;
/// Every so many cuts, the control plane itself is started on what is left.
const START_EVERY: usize = 20;

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let mut bound = Command::new("setpriv");
        bound
            .args(["--pdeathsig", "KILL"])
            .arg(command.get_program())
            .args(command.get_args());
        bound
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        command = bound;
        Ok(Self(command.spawn().with_context(|| format!("start {command:?}"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control plane, and the socket on which kubectl leads to it.
struct ControlPlane {
    _server: Running,
    _proxy: Running,
    socket: PathBuf,
}

impl ControlPlane {
    fn start(stage: &Stage) -> Result<Self> {
        let config = stage.scratch.join("config.toml");
        let run_directory = stage.scratch.join("run");
        std::fs::write(&config, format!("name = \"pi-1\"\nrun = {run_directory:?}\n"))?;
        let mut server = Command::new(minidc()?);
        server
            .args(["server", "--no-node", "--listen", "0.0.0.0:0", "--config"])
            .arg(&config);
        server.arg("--data").arg(&stage.data);
        let mut server = Running::start(server)?;

        // a kubeconfig from before the cut leads to a port that is no more
        let kubeconfig = stage.data.join("server/admin.kubeconfig");
        let answers = || {
            ensure!(server.0.try_wait()?.is_none(), "the server ended");
            let ready = run(Command::new("kubectl")
                .args(["--request-timeout=2s", "get", "--raw", "/readyz", "--kubeconfig"])
                .arg(&kubeconfig));
            ready.map(|_| true)
        };
        eventually(Duration::from_secs(20), "the API answers", answers)?;
        let socket = stage.scratch.join("api.socket");
        let mut proxy = Command::new("kubectl");
        proxy
            .args(["proxy", "--unix-socket"])
            .arg(&socket)
            .arg("--kubeconfig")
            .arg(&kubeconfig);
        let mut proxy = Running::start(proxy)?;
        let mut said = String::new();
        BufReader::new(proxy.0.stdout.take().context("no output")?).read_line(&mut said)?;
        Ok(Self {
            _server: server,
            _proxy: proxy,
            socket,
        })
    }
}

/// Sends a request, which must succeed.
fn request(socket: &Path, method: &str, path: &str, media: &str, body: &Value) -> Result<Value> {
    let answer = run(Command::new("curl")
        .args(["-s", "-S", "--fail-with-body", "-X", method, "--unix-socket"])
        .arg(socket)
        .args(["-H", &format!("content-type: {media}"), "-d", &body.to_string()])
        .arg(format!("http://localhost{path}")))?;
    Ok(serde_json::from_str(&answer)?)
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn write(stage: &Stage) -> Result<History> {
    let card = stage.card()?;
    let control_plane = ControlPlane::start(stage)?;
    let pin = ClusterIdentity::load(&stage.data.join("server/pki"))?.pin().to_string();
    let mut attempts = vec![Written {
        name: "pki".into(),
        value: Some(pin),
        started: 0,
        acknowledged: card.position(),
    }];
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}}}});
    request(
        &control_plane.socket,
        "POST",
        "/apis/apps/v1/namespaces/default/deployments",
        JSON,
        &deployment,
    )?;
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let socket = &control_plane.socket;
                scope.spawn(move || write_some(writer, socket, || card.position()))
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    attempts.extend(written.into_iter().flatten());
    Ok(History::new(attempts))
}

/// One client: makes, changes and deletes a config map and a Service.
fn write_some(writer: usize, socket: &Path, position: impl Fn() -> usize) -> Result<Vec<Written>> {
    let mut random = Random(writer as u64);
    let mut attempts = Vec::new();
    let mut there = [false; 2];
    for number in 0..WRITES {
        let which = random.below(2);
        let (kind, path) = [("configmap", CONFIG_MAPS), ("service", SERVICES)][which];
        let name = format!("cut-{writer}");
        let one = format!("{path}/{name}");
        let metadata = json!({"name": name, "annotations": {"value": number.to_string(), "padding": "x".repeat(random.below(2000))}});
        let delete = there[which] && random.below(4) == 0;
        let started = position();
        if delete {
            request(socket, "DELETE", &one, JSON, &json!({}))?;
        } else if there[which] {
            request(socket, "PATCH", &one, MERGE_PATCH, &json!({"metadata": metadata}))?;
        } else {
            let mut object = json!({"metadata": metadata});
            if kind == "service" {
                object["spec"] = json!({"ports": [{"port": 80}]});
            }
            request(socket, "POST", path, JSON, &object)?;
        }
        there[which] = !delete;
        attempts.push(Written {
            name: format!("{kind} {name}"),
            value: (!delete).then(|| number.to_string()),
            started,
            acknowledged: position(),
        });
    }
    Ok(attempts)
}

fn find(stage: &Stage) -> Result<Found> {
    let mut found = Runtime::new()?.block_on(find_stored(&stage.data.join("server/store")))?;
    let pki = stage.data.join("server/pki");
    if pki.exists() {
        found.insert("pki".into(), ClusterIdentity::load(&pki)?.pin().to_string());
    }
    if stage.number.is_multiple_of(START_EVERY) {
        let control_plane = ControlPlane::start(stage)?;
        let mut served = Found::new();
        for (kind, path) in [("configmap", CONFIG_MAPS), ("service", SERVICES)] {
            let list = request(&control_plane.socket, "GET", path, JSON, &json!({}))?;
            for object in list["items"].as_array().context("no list")? {
                note(kind, object, &mut served);
            }
        }
        let stored: Found = found
            .iter()
            .filter(|(name, _)| *name != "pki")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        ensure!(
            served == stored,
            "the API serves {served:?}, though {stored:?} is stored"
        );
    }
    Ok(found)
}

/// Notes an object, if it is one of ours.
fn note(kind: &str, object: &Value, found: &mut Found) {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if let Some(value) = object.pointer("/metadata/annotations/value").and_then(Value::as_str) {
        found.insert(format!("{kind} {name}"), value.to_owned());
    }
}

async fn find_stored(directory: &Path) -> Result<Found> {
    let options = Options {
        memory_prefixes: minidc_apiserver::memory_prefixes(),
        ..Options::default()
    };
    let store = Store::open(directory, options).await?;
    let objects = |prefix: &str| -> Result<Vec<Value>> {
        let (entries, _) = store.list(prefix);
        entries
            .iter()
            .map(|entry| Ok(serde_json::from_slice(&entry.envelope.json)?))
            .collect()
    };
    let mut found = Found::new();
    for object in objects("core/configmaps/default/")? {
        note("configmap", &object, &mut found);
    }
    // a Service and its address are one transaction
    let text = |object: &Value, pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut held = Vec::new();
    for object in objects("core/services/default/")? {
        note("service", &object, &mut found);
        held.push((text(&object, "/metadata/name"), text(&object, "/spec/clusterIP")));
    }
    let given = objects("networking.k8s.io/ipaddresses/")?;
    let given = given
        .iter()
        .filter(|object| text(object, "/spec/parentRef/namespace") == "default");
    let mut given: Vec<_> = given
        .map(|object| (text(object, "/spec/parentRef/name"), text(object, "/metadata/name")))
        .collect();
    held.sort();
    given.sort();
    ensure!(held == given, "Services hold {held:?}, given out are {given:?}");
    store.close().await;
    Ok(found)
}
