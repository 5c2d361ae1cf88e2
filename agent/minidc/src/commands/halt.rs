//! `minidc halt`: this board has its pods started elsewhere, stops what is left of them, and powers off; its lights say when the plug
//! may be pulled. What the button does.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use minidc_hardware::{Driver, LOG, NodeHealth, Recorder, Stage};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    node,
    status::{FILE, Status},
};
use crate::{config::Config, drain, lights};

/// Between two looks at whether the agent has done what it was asked for.
const LOOK: Duration = Duration::from_millis(100);

/// Runs `minidc halt`; does not come back where it works.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    match give_pods_away(&config).await {
        Ok(told) => println!("{told}"),
        Err(error) => eprintln!("minidc: the pods are stopped here, and not evicted: {error:#}"),
    }
    // before the pods: it would start them again, and it has the lights
    systemctl(&["stop", "minidc.service"]).await?;
    let recorder = Recorder::new(Some(&config.run.join(LOG)))?;
    let driver = Driver::start(lights::open(&config, &recorder)?.lights)?;
    let teller = driver.teller();
    let halting = NodeHealth {
        stage: Stage::Halting,
        ..NodeHealth::default()
    };
    teller.health(&halting);
    let telling = tokio::spawn(async move {
        loop {
            teller.health(&halting);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    if let Err(error) = node::clear(&config).await {
        eprintln!("minidc: not all pods were stopped: {error:#}");
    }
    systemctl(&["poweroff"]).await?;
    // shown until the end of all processes
    telling.await.context("the lights")
}

/// Has the agent drain this node, and waits until it has, or gives up.
async fn give_pods_away(config: &Config) -> anyhow::Result<String> {
    let status = std::fs::read(config.run.join(FILE)).context("no agent runs here")?;
    let status: Status = serde_json::from_slice(&status).context("the agent's status")?;
    if !status.has_node() || !status.is_alive() {
        bail!("no node runs here");
    }
    let drained = config.run.join(drain::DRAINED);
    let _ = std::fs::remove_file(&drained);
    kill(Pid::from_raw(i32::try_from(status.pid)?), Signal::SIGUSR2).context("signal the agent")?;
    let asked = Instant::now();
    loop {
        if let Ok(told) = std::fs::read_to_string(&drained)
            && !told.is_empty()
        {
            return Ok(told);
        }
        // longer than the agent itself waits: that one hangs or has died
        if asked.elapsed() > drain::LIMIT + Duration::from_secs(5) {
            bail!("the agent does not answer");
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn systemctl(arguments: &'static [&'static str]) -> anyhow::Result<()> {
    let status = tokio::task::spawn_blocking(move || Command::new("systemctl").args(arguments).status())
        .await?
        .context("start systemctl: only systemd can stop this machine")?;
    if !status.success() {
        bail!("systemctl {}: {status}", arguments.join(" "));
    }
    Ok(())
}

/// Starts [`run`] as a process of its own, which outlives this one and is among the last that the system ends.
pub(crate) fn start_by_itself() -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let status = Command::new("systemd-run")
        .args([
            "--collect",
            "--quiet",
            "--unit=minidc-halt",
            "--property=DefaultDependencies=no",
            "--",
        ])
        .arg(program)
        .arg("halt")
        .status()
        .context("start systemd-run")?;
    if !status.success() {
        bail!("systemd-run: {status}");
    }
    Ok(())
}
