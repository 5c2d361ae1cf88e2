//! Process 1 of a virtual Pi: mounts, configuration, daemons.
//!
//! It speaks to `rack up` through its standard output, a line per event, until all is up: `pid N` (its number on the host),
//! `step NAME MILLISECONDS`, and at last `ready`. After that, it is on its own.

mod files;
mod mounts;
mod service;
mod supervisor;

use std::{fs, io::Write as _, path::Path, time::Instant};

use crate::{Error, spec::InitSpec};

/// First word of the line with the number of process 1 on the host.
pub(crate) const PID: &str = "pid";
/// First word of a line that says how long a step took.
pub(crate) const STEP: &str = "step";
/// The last line.
pub(crate) const READY: &str = "ready";
/// Daemons that run and how often they were started, as JSON, in the node.
pub(crate) const SERVICES: &str = "/run/rack/services.json";
/// Directory in the node: daemons with a file of their name in it are not to run.
pub(crate) const HELD: &str = "/run/rack/held";

/// Is process 1 of a virtual Pi, until it is told to shut down with SIGTERM.
///
/// To be called by the hidden subcommand `minidc rack init SPEC`, outside of any asynchronous runtime. Everything of the
/// node ends when this returns and the process exits.
///
/// # Errors
/// Whatever keeps the node from booting.
pub fn init(spec: &Path) -> Result<(), Error> {
    let text = fs::read(spec).map_err(Error::file("read", spec))?;
    let spec: InitSpec = serde_json::from_slice(&text).map_err(|source| Error::Malformed {
        path: spec.to_owned(),
        source,
    })?;
    // Tells this process from the minidc that it is a copy of.
    nix::sys::prctl::set_name(c"rack-init").map_err(Error::system("name process 1"))?;
    report(&format!("{PID} {}", number_on_host()?));
    let start = Instant::now();
    mounts::enter(&spec)?;
    nix::unistd::sethostname(&spec.node).map_err(Error::system("set the host name"))?;
    report(&format!("{STEP} mounts {}", start.elapsed().as_millis()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            attempt: "start a runtime",
            source,
        })?;
    runtime.block_on(async { supervisor::Supervisor::new(service::all(&spec))?.run().await })
}

/// The number of this process as the host counts; to be asked before the node has a `/proc` of its own.
fn number_on_host() -> Result<String, Error> {
    let link = "/proc/self";
    let target = fs::read_link(link).map_err(Error::file("read", link))?;
    Ok(target.to_string_lossy().into_owned())
}

/// Says a line to `rack up`; nobody may be there to hear it.
fn report(line: &str) {
    let mut output = std::io::stdout();
    let _ = writeln!(output, "{line}");
    let _ = output.flush();
}
