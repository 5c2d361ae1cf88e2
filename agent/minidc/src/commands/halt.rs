//! `minidc halt`: this board stops its pods and powers off, and its lights say when the plug may be pulled. What the button does.

use std::{process::Command, time::Duration};

use anyhow::{Context, bail};
use minidc_hardware::{Driver, LOG, NodeHealth, Recorder, Stage};

use super::node;
use crate::{config::Config, lights};

/// Runs `minidc halt`; does not come back where it works.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    // first: it would start the pods again, and it has the lights
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
