//! Clients that write to the API without pause and remember what was acknowledged.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    history::{Found, Random, Written},
    run,
};

/// A process that ends with the thread that started it, however that ends.
#[derive(Debug)]
pub struct Bound(pub Child);

impl Bound {
    /// Starts it without input; its output is to be read.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &Command) -> Result<Self> {
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL"]);
        bound.arg(command.get_program()).args(command.get_args());
        bound.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self(bound.spawn().with_context(|| format!("start {command:?}"))?))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// kubectl's own proxy, which leads requests without further ado to the API as the kubeconfig's user.
#[derive(Debug)]
pub struct Proxy {
    socket: PathBuf,
    _process: Bound,
}

/// The usual encoding.
pub const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
/// What is written to.
const KINDS: [(&str, &str); 2] = [
    ("configmap", "/api/v1/namespaces/default/configmaps"),
    ("service", "/api/v1/namespaces/default/services"),
];

impl Proxy {
    /// Starts it; `socket` is made.
    ///
    /// # Errors
    /// If kubectl does not start.
    pub fn start(kubeconfig: &Path, socket: &Path) -> Result<Self> {
        let mut command = Command::new("kubectl");
        command
            .args(["proxy", "--unix-socket"])
            .arg(socket)
            .arg("--kubeconfig")
            .arg(kubeconfig);
        let mut process = Bound::start(&command)?;
        let mut said = String::new();
        BufReader::new(process.0.stdout.take().context("no output")?).read_line(&mut said)?;
        Ok(Self {
            socket: socket.to_owned(),
            _process: process,
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If it does not succeed within ten seconds.
    pub fn request(&self, method: &str, path: &str, media: &str, body: &Value) -> Result<Value> {
        let answer = run(Command::new("curl")
            .args([
                "-s",
                "-S",
                "--fail-with-body",
                "--max-time",
                "10",
                "-X",
                method,
                "--unix-socket",
            ])
            .arg(&self.socket)
            .args(["-H", &format!("content-type: {media}"), "-d", &body.to_string()])
            .arg(format!("http://localhost{path}")))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// What the writers' objects are now.
    ///
    /// # Errors
    /// If the API does not say.
    pub fn found(&self) -> Result<Found> {
        let mut found = Found::new();
        for (kind, path) in KINDS {
            let list = self.request("GET", path, JSON, &json!({}))?;
            for object in list["items"].as_array().context("no list")? {
                note(kind, object, &mut found);
            }
        }
        Ok(found)
    }
}

/// Notes an object, if it is one of a writer's.
pub fn note(kind: &str, object: &Value, found: &mut Found) {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if let Some(value) = object.pointer("/metadata/annotations/value").and_then(Value::as_str) {
        found.insert(format!("{kind} {name}"), value.to_owned());
    }
}

/// One client, which makes, changes and deletes a config map and a Service.
#[derive(Debug)]
pub struct Writer {
    number: usize,
    random: Random,
    there: [bool; 2],
    written: usize,
}

impl Writer {
    /// Writers that run at the same time have numbers of their own.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Self {
            number,
            random: Random(number as u64),
            there: [false; 2],
            written: 0,
        }
    }

    /// Looks at what is there, after something went wrong.
    pub fn look(&mut self, found: &Found) {
        let number = self.number;
        self.there = KINDS.map(|(kind, _)| found.contains_key(&format!("{kind} cut-{number}")));
    }

    /// Writes once; `position` says where we are. An attempt that was not acknowledged is [`usize::MAX`] there, and comes with
    /// the reason.
    pub fn write(&mut self, proxy: &Proxy, position: impl Fn() -> usize) -> (Written, Option<anyhow::Error>) {
        let which = self.random.below(2);
        let (kind, path) = KINDS[which];
        let name = format!("cut-{}", self.number);
        self.written += 1;
        let value = self.written.to_string();
        let padding = "x".repeat(self.random.below(2000));
        let metadata = json!({"name": name, "annotations": {"value": value, "padding": padding}});
        let delete = self.there[which] && self.random.below(4) == 0;
        let started = position();
        let one = format!("{path}/{name}");
        let answer = if delete {
            proxy.request("DELETE", &one, JSON, &json!({}))
        } else if self.there[which] {
            proxy.request("PATCH", &one, MERGE_PATCH, &json!({"metadata": metadata}))
        } else {
            let mut object = json!({"metadata": metadata});
            if kind == "service" {
                object["spec"] = json!({"ports": [{"port": 80}]});
            }
            proxy.request("POST", path, JSON, &object)
        };
        let error = answer.err();
        self.there[which] = !delete;
        let attempt = Written {
            name: format!("{kind} {name}"),
            value: (!delete).then_some(value),
            started,
            acknowledged: if error.is_none() { position() } else { usize::MAX },
        };
        (attempt, error)
    }
}
