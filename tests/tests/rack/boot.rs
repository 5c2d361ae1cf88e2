//! First boot: a machine with nothing but a card becomes a node, and is the same node after its power was cut.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use minidc_image::{
    cards::files,
    sample,
    seed::{Membership, Secret, Seed},
};
use minidc_tests::{PATIENCE, Rack, eventually, workspace};

use crate::names::guest;

pub(crate) const ALL: &[crate::Promise] = &[(
    "a_board_becomes_a_node_by_its_seed_with_its_clock_in_1970_and_stays_it_after_a_power_cut",
    a_board_becomes_a_node_by_its_seed_with_its_clock_in_1970_and_stays_it_after_a_power_cut,
)];

/// Host name of the machine before its seed was read, and the name in the seed.
const BOARD: &str = "fresh";
const NODE: &str = "seeded";
/// What only the data partition keeps; all else is in memory on a board.
const KEPT: &str = "/var/lib/minidc";
/// A clock that was never set. The program must not set it here: it is the one of the machine that runs the test.
const IN_1970: &str = "env LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME='@1970-01-01 00:00:10'";
const CONFIG: &str = "[clock]\nset = false\n";
const CONTAINERD: &str = "image/deb/files/usr/share/minidc/containerd.toml";

/// A machine with the program, its containerd's configuration and a card, and nothing else of minidc.
struct Board<'r> {
    rack: &'r Rack,
    boards: minidc_rack::Rack,
    index: u32,
}

impl<'r> Board<'r> {
    fn new(rack: &'r Rack, seed: &Seed) -> Result<Self> {
        guest(rack, BOARD)?;
        let boards = minidc_rack::Rack::open(&rack.name)?;
        let index = boards.node_index(BOARD)?;
        let board = Self { rack, boards, index };
        fs::create_dir_all(board.kept(""))?;
        fs::copy(minidc_tests::minidc()?, board.kept("program"))?;
        fs::copy(workspace().join(CONTAINERD), board.kept("containerd.toml"))?;
        fs::write(board.kept("config.toml"), CONFIG)?;
        fs::write(board.kept("card.img"), sample::image(&files(seed))?)?;
        Ok(board)
    }

    /// Where a file of the data partition lies on the host.
    fn kept(&self, name: &str) -> PathBuf {
        self.boards.node_path(self.index, KEPT).join(name)
    }

    fn shell(&self, script: &str) -> Result<String> {
        self.rack.in_node(BOARD, &["sh", "-ec", script])
    }

    /// What the image's units do, on a root with nothing of the last start. `clock` goes before minidc.
    fn start(&self, clock: &str) -> Result<String> {
        self.shell(&format!(
            "rm -rf /etc/minidc/* /etc/cni/net.d/* /var/lib/cni/* /var/log/pods /etc/hosts\n\
             mkdir -p /usr/local/bin && ln -sf {KEPT}/program /usr/local/bin/minidc\n\
             minidc boot seed --card {KEPT}/card.img\n\
             mkdir -p /run/minidc-containerd\n\
             setsid containerd -c {KEPT}/containerd.toml </dev/null >/run/containerd.log 2>&1 &\n\
             {clock} setsid minidc run </dev/null >{KEPT}/run.log 2>&1 &\n\
             hostname"
        ))
    }

    fn is_ready(&self) -> Result<Duration> {
        let what = format!("{NODE} to be Ready");
        eventually(PATIENCE, &what, || self.rack.node_is(NODE, "True")).with_context(|| {
            let log = fs::read_to_string(self.kept("run.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(30).collect();
            format!("the log ends, last line first, with\n{}", lines.join("\n"))
        })
    }
}

impl Drop for Board<'_> {
    fn drop(&mut self) {
        let _ = self.rack.kubectl(&[
            "delete",
            "pod",
            "on-seeded",
            "--force",
            "--ignore-not-found",
            "--wait=false",
        ]);
        let _ = self.boards.unplug(self.index);
        let _ = self.rack.minidc(&["node", "remove", NODE]);
    }
}

fn a_board_becomes_a_node_by_its_seed_with_its_clock_in_1970_and_stays_it_after_a_power_cut(rack: &Rack) -> Result<()> {
    let token = rack.in_node("pi-1", &["minidc", "token", "create", "--node", NODE])?;
    let token = token.trim();
    let seed = Seed {
        cluster: rack.name.clone(),
        node: NODE.into(),
        membership: Membership::Node {
            token: Some(Secret::new(token)),
            ca_pin: None,
        },
        moved_authority: None,
        servers: Vec::new(),
        wifi: None,
        ssh_keys: Vec::new(),
        time: Some(jiff::Timestamp::now()),
    };
    let board = Board::new(rack, &seed)?;
    let said = board.start(IN_1970)?;
    ensure!(
        said.contains(&format!("this board is {NODE}, node of cluster {}", rack.name)),
        "{said}"
    );
    ensure!(
        said.lines().last() == Some(NODE),
        "the host name is not the seed's: {said}"
    );
    let card = fs::read(board.kept("card.img"))?;
    ensure!(
        !card.windows(token.len()).any(|bytes| bytes == token.as_bytes()),
        "the token is still on the card"
    );
    board.is_ready()?;
    let log = || fs::read_to_string(board.kept("run.log")).context("read the log");
    eventually(PATIENCE, "the clock's being behind in the log", || {
        Ok(log()?.contains("clock is behind the control plane's"))
    })?;
    ensure!(
        log()?.contains("1970-01-01T"),
        "the board's clock is not in 1970:\n{}",
        log()?
    );
    let stages = board.shell("cat /run/minidc/stages")?;
    for stage in ["start", "network", "joining", "connected", "ready"] {
        ensure!(stages.contains(&format!("{stage} ")), "{stage} is not among\n{stages}");
    }
    let uid = || {
        rack.kubectl(&[
            "get",
            "node",
            NODE,
            "-o",
            "jsonpath={.metadata.uid} {.status.nodeInfo.machineID}",
        ])
    };
    let before = uid()?;
    let image = rack.kubectl(&[
        "get",
        "images.minidc.dev",
        "-o",
        "jsonpath={.items[0].spec.references[0]}",
    ])?;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "on-seeded"},
        "spec": {"nodeName": NODE, "containers": [{"name": "web", "image": image, "imagePullPolicy": "Never"}]},
    });
    rack.kubectl_with(&["apply", "-f", "-"], &pod.to_string())?;
    rack.wait_for_phase("on-seeded", "Running", PATIENCE)?;

    board.boards.unplug(board.index)?;
    eventually(PATIENCE, "the silence to be noticed", || {
        Ok(!rack.node_is(NODE, "True")?)
    })?;
    board.boards.plug(board.index, &minidc_rack::Silent)?;
    let said = board.start("")?;
    ensure!(said.lines().last() == Some(NODE), "{said}");
    board.is_ready()?;
    ensure!(uid()? == before, "it came back as another: {before} and {}", uid()?);
    // the pod was evicted while its node was silent; a new one runs where the old one's traces were
    rack.kubectl(&["delete", "pod", "on-seeded", "--ignore-not-found", "--timeout=120s"])?;
    rack.kubectl_with(&["apply", "-f", "-"], &pod.to_string())?;
    rack.wait_for_phase("on-seeded", "Running", PATIENCE)?;
    ensure!(rack.kubectl(&["logs", "on-seeded"]).is_ok());
    eventually(PATIENCE, "its own word", || {
        let status = board.shell("minidc status 2>&1 | head -6")?;
        ensure!(status.contains(NODE) && status.contains("connected"), "{status}");
        Ok(true)
    })
    .map(drop)
}
