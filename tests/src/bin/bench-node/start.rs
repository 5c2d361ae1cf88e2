//! How long a node takes from the start of minidc until it is Ready: the network is up, D-Bus, Avahi and containerd run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minidc_tests::{Rack, eventually};

/// Times that each start is measured.
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts of a node and of a control plane with its node, the first and later ones; prints medians.
pub(crate) fn measure(rack: &Rack) -> Result<()> {
    println!("\n| from the start of minidc to Ready, median of {ROUNDS} | |\n| --- | --- |");
    print("node, first start with a token", || first_start(rack))?;
    print("node, later start", || later_start(rack))?;
    print("control plane and node, later start", || server_start(rack, false))?;
    // the last, since the cluster is another afterwards
    print("control plane and node, first start", || server_start(rack, true))?;
    Ok(())
}

fn print(what: &str, mut start: impl FnMut() -> Result<(Duration, String)>) -> Result<()> {
    let mut times = (0..ROUNDS).map(|_| start()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    let (median, stages) = &times[ROUNDS / 2];
    let worst = times.last().map_or(0.0, |(time, _)| time.as_secs_f64());
    println!("| {what} | {:.2} s, worst {worst:.2} s{stages} |", median.as_secs_f64());
    Ok(())
}

/// The moments that minidc itself recorded, since `started`.
fn stages(rack: &minidc_rack::Rack, index: u32, started: f64) -> String {
    let text = std::fs::read_to_string(rack.node_path(index, "/run/minidc/stages")).unwrap_or_default();
    let mut said = String::new();
    for line in text.lines() {
        if let Some((name, at)) = line.split_once(' ')
            && let Ok(at) = at.trim().parse::<f64>()
            && at >= started
        {
            said.push_str(&format!(", {name} {:.2}", at - started));
        }
    }
    said
}

/// Seconds since the kernel started.
fn uptime() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// Lets a held minidc go and waits until `ready`.
fn go(rack: &Rack, index: u32, ready: impl FnMut() -> Result<bool>) -> Result<(Duration, String)> {
    let boards = minidc_rack::Rack::open(&rack.name)?;
    let (begin, started) = (Instant::now(), uptime()?);
    boards.release_service(index, "minidc")?;
    eventually(PATIENCE, "Ready", ready)?;
    Ok((begin.elapsed(), stages(&boards, index, started)))
}

fn later_start(rack: &Rack) -> Result<(Duration, String)> {
    minidc_rack::Rack::open(&rack.name)?.hold_service(2, "minidc")?;
    eventually(PATIENCE, "pi-2 NotReady", || rack.node_is("pi-2", "Unknown"))?;
    go(rack, 2, || rack.node_is("pi-2", "True"))
}

/// As a card that was just flashed: nothing of an earlier life but containerd's images.
fn first_start(rack: &Rack) -> Result<(Duration, String)> {
    rack.minidc(&["node", "remove", "pi-2"])?;
    minidc_rack::Rack::open(&rack.name)?.hold_service(2, "minidc")?;
    let token = rack.in_node("pi-1", &["minidc", "token", "create", "--node", "pi-2"])?;
    let forget = format!(
        "rm -rf /var/lib/minidc/agent /etc/cni/net.d/* /run/minidc/*; ip link del cni0 2>/dev/null; nft flush ruleset; \
         sed -i 's/^token = .*/token = \"{}\"/' /etc/minidc/config.toml",
        token.trim()
    );
    rack.in_node("pi-2", &["sh", "-c", &forget])?;
    eventually(PATIENCE, "pi-2's object is gone", || {
        Ok(!rack.kubectl(&["get", "nodes", "-o", "name"])?.contains("pi-2"))
    })?;
    go(rack, 2, || Ok(rack.node_is("pi-2", "True").unwrap_or(false)))
}

/// `fresh`: a cluster that has never been, on a board that has nothing but containerd's images.
fn server_start(rack: &Rack, fresh: bool) -> Result<(Duration, String)> {
    let boards = minidc_rack::Rack::open(&rack.name)?;
    boards.hold_service(1, "minidc")?;
    let kubeconfig = boards.node_path(1, "/var/lib/minidc/server/admin.kubeconfig");
    if fresh {
        let forget = "rm -rf /var/lib/minidc/agent /var/lib/minidc/server /etc/cni/net.d/* /run/minidc/*; ip link del cni0 2>/dev/null; nft flush ruleset";
        rack.in_node("pi-1", &["sh", "-c", forget])?;
        ensure!(!kubeconfig.exists(), "{} is still there", kubeconfig.display());
    }
    go(rack, 1, || {
        if fresh {
            std::fs::copy(&kubeconfig, rack.kubeconfig()).context("no kubeconfig yet")?;
        }
        // metrics come with heartbeats only: what the store says of the node may be of an earlier life
        let metrics = rack.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"])?;
        Ok(metrics.contains("\"pi-1\"") && rack.node_is("pi-1", "True")?)
    })
}
