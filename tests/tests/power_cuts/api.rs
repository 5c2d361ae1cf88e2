//! The control plane as it runs on a card, written to through kubectl's own proxy.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use minidc_link::pki::ClusterIdentity;
use minidc_store::{Options, Store};
use minidc_tests::{
    PATIENCE,
    clients::{Bound, JSON, Proxy, Writer, note},
    eventually,
    history::{Found, History, Written},
    minidc, run,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{Stage, Subject, card::Record};

pub(crate) const SUBJECT: Subject = Subject {
    name: "api",
    write,
    find,
};

const WRITERS: usize = 3;
const WRITES: usize = 100;
/// Every so many cuts, the control plane itself is started on what is left.
const START_EVERY: usize = 21;

/// A control plane, and how kubectl leads to it.
struct ControlPlane {
    _server: Bound,
    proxy: Proxy,
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
        let mut server = Bound::start(&server)?;

        // a kubeconfig from before the cut leads to a port that is no more
        let kubeconfig = stage.data.join("server/admin.kubeconfig");
        let answers = || {
            ensure!(server.0.try_wait()?.is_none(), "the server ended");
            let ready = run(Command::new("kubectl")
                .args(["--request-timeout=2s", "get", "--raw", "/readyz", "--kubeconfig"])
                .arg(&kubeconfig));
            ready.map(|_| true)
        };
        eventually(PATIENCE, "the API answers", answers)?;
        let proxy = Proxy::start(&kubeconfig, &stage.scratch.join("api.socket"))?;
        Ok(Self { _server: server, proxy })
    }
}

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
    control_plane.proxy.request(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments",
        JSON,
        &deployment,
    )?;
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let proxy = &control_plane.proxy;
                scope.spawn(move || write_some(writer, proxy, || card.position()))
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

fn write_some(writer: usize, proxy: &Proxy, position: impl Fn() -> usize) -> Result<Vec<Written>> {
    let mut writer = Writer::new(writer);
    let attempts = (0..WRITES).map(|_| match writer.write(proxy, &position) {
        (attempt, None) => Ok(attempt),
        (_, Some(error)) => Err(error),
    });
    attempts.collect()
}

fn find(stage: &Stage) -> Result<Found> {
    let mut found = Runtime::new()?.block_on(find_stored(&stage.data.join("server/store")))?;
    let pki = stage.data.join("server/pki");
    if pki.exists() {
        found.insert("pki".into(), ClusterIdentity::load(&pki)?.pin().to_string());
    }
    if stage.number.is_multiple_of(START_EVERY) {
        let served = ControlPlane::start(stage)?.proxy.found()?;
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

/// What the card is asked to do for one write, and for none.
pub(crate) fn cost(stage: &Stage) -> Result<()> {
    let card = stage.card()?;
    let control_plane = ControlPlane::start(stage)?;
    let flushes = || {
        let log = card.take().log;
        log.iter().filter(|record| matches!(record, Record::Flush)).count()
    };
    // longer than ext4 lets its own journal wait
    let quiet = |what: &str| {
        let still = || {
            flushes();
            std::thread::sleep(Duration::from_secs(7));
            Ok(flushes() == 0)
        };
        eventually(PATIENCE, format!("no flush for seven seconds {what}"), still)
    };
    quiet("after the start")?;
    let mut writer = Writer::new(0);
    for _ in 0..WRITES {
        if let (_, Some(error)) = writer.write(&control_plane.proxy, || 0) {
            return Err(error);
        }
    }
    let flushes = flushes();
    println!("{WRITES} writes one after the other: {flushes} flushes");
    // one for each, and a few for the journal of the file system
    ensure!(flushes <= WRITES + WRITES / 5, "{flushes} flushes for {WRITES} writes");
    quiet("after the last write").map(drop)
}
