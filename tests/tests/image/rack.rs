//! Two Pis from one image become a rack.

use std::{fs, time::Duration};

use anyhow::{Result, bail, ensure};
use minidc_kubelet::archive::{File, ImageBuilder};
use minidc_tests::{
    emulated::{Board, Machine, Power},
    eventually,
};
use serde_json::{Value, json};

use crate::world::{MOMENT, PIS, Rack, World, initrd_program};

pub(crate) const ALL: &[crate::Promise] = &[
    ("two_flashed_cards_become_a_rack", two_flashed_cards_become_a_rack),
    ("a_pod_runs_on_the_second_pi", a_pod_runs_on_the_second_pi),
];

/// What leaves the rack other than it was.
pub(crate) const LAST: &[crate::Promise] = &[(
    "a_power_cut_and_new_addresses_change_nothing",
    a_power_cut_and_new_addresses_change_nothing,
)];

/// The image of the pod, under a name that no registry has.
const REFERENCE: &str = "example.local/web:1";

fn two_flashed_cards_become_a_rack(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        let laptop = &rack.laptop;
        let table = laptop.kubectl(&["get", "nodes", "-o", "wide"])?;
        println!("{table}");
        for name in PIS {
            ensure!(laptop.is_ready(name)?, "{name} is not Ready:\n{table}");
            let node = laptop.get(&["node", name])?;
            ensure!(
                node.pointer("/status/nodeInfo/architecture") == Some(&json!("arm64")),
                "{node}"
            );
        }
        // What is Ready joined by what its card said: there is nobody who could have approved anything.
        let nodes = laptop.get(&["nodes"])?;
        ensure!(
            nodes["items"].as_array().is_some_and(|nodes| nodes.len() == PIS.len()),
            "{table}"
        );
        Ok(())
    })
}

/// A web server from the busybox that the card itself brings.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": PIS[1]},
            // An emulated node may be silent for longer than a real one ever is; nobody would make this pod anew.
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
            "containers": [{"name": "web", "image": REFERENCE}],
        }
    })
}

fn a_pod_runs_on_the_second_pi(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        let busybox = initrd_program(&rack.cards[1], &world.directory.join("pi-2-boot"), "bin/busybox")?;
        let archive = world.directory.join("web.tar");
        ImageBuilder::new(REFERENCE)
            .architecture("arm64")
            .environment("PATH=/bin")
            .command([
                "/bin/busybox",
                "sh",
                "-c",
                "busybox echo this is $(busybox uname -m) >/index.html; exec busybox httpd -f -p 8080 -h /",
            ])
            .file(File::program("/bin/busybox", busybox))
            .file(File::link("/bin/sh", "busybox"))
            .file(File::link("/bin/wget", "busybox"))
            .write_to(std::io::BufWriter::new(fs::File::create(&archive)?))?;
        let laptop = &rack.laptop;
        println!(
            "{}",
            laptop.minidc(&["image", "import", &archive.display().to_string()])?
        );
        let manifest = world.directory.join("web.json");
        fs::write(&manifest, pod().to_string())?;
        laptop.kubectl(&["apply", "-f", &manifest.display().to_string()])?;
        serves(rack)
    })
}

/// Waits until the pod serves: asked for a page, not judged by what is remembered of it.
fn serves(rack: &mut Rack) -> Result<()> {
    let Rack { laptop, machines, .. } = rack;
    machines[1].until(MOMENT * 2, "the pod to serve", || {
        let ready = minidc_tests::condition(&laptop.get(&["pod", "web"])?, "Ready") == "True";
        let page = ["exec", "web", "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"];
        Ok(ready && laptop.kubectl(&page)?.trim() == "this is aarch64")
    })
}

fn a_power_cut_and_new_addresses_change_nothing(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        let before = rack.laptop.get(&["pod", "web"])?;
        ensure!(before["spec"]["nodeName"] == PIS[1], "{before}");
        // Written, and acknowledged, just before it gets dark.
        let name = "last-words";
        rack.laptop
            .kubectl(&["create", "configmap", name, "--from-literal=said=yes"])?;
        let addresses = PIS.map(|name| rack.laptop.address(name).ok());
        rack.machines.drain(..).for_each(Machine::cut);
        rack.laptop.network.carry_elsewhere()?;
        // The second with the memory of a Zero 2 W, see below.
        rack.power_on(world, "boot after a power cut", |name| {
            let power = Power::on(Board::Pi3);
            if name == PIS[1] { power.with("mem=512M") } else { power }
        })?;
        for (name, before) in PIS.into_iter().zip(&addresses) {
            let now = rack.laptop.address(name)?;
            println!("{name}: {now}, before {before:?}");
            ensure!(before.is_some() && *before != Some(now), "{name} has no new address");
        }
        let said = rack.laptop.get(&["configmap", name])?;
        ensure!(said["data"]["said"] == "yes", "{said}");
        serves(rack)?;
        let after = rack.laptop.get(&["pod", "web"])?;
        ensure!(
            after["metadata"]["uid"] == before["metadata"]["uid"],
            "the pod is another one:\n{after}"
        );
        crate::health::is_sound(rack)?;
        crate::health::network_is_sound(rack)?;
        half_a_gigabyte_leaves_room_for_pods(rack)?;
        // Cards of machines without power are checked as a card reader would.
        rack.machines.drain(..).for_each(Machine::cut);
        for (name, card) in PIS.into_iter().zip(&rack.cards) {
            crate::health::data_is_clean(card).map_err(|error| error.context(name))?;
        }
        Ok(())
    })
}

/// A Zero 2 W has 512 MB; the limit is for what the kernel can use, which is less on the board (64 MB are the GPU's by default).
fn half_a_gigabyte_leaves_room_for_pods(rack: &Rack) -> Result<()> {
    let mut free = 0;
    let wait = eventually(Duration::from_secs(60), "250 MB to be free", || {
        let printed = rack.ssh(PIS[1], "cat /proc/meminfo")?;
        free = kilobytes(&printed, "MemAvailable:")?;
        println!(
            "mem=512M, minidc and one pod running: {} of {} MB available",
            free / 1000,
            kilobytes(&printed, "MemTotal:")? / 1000
        );
        Ok(free > 250 * 1000)
    });
    wait.map(drop)
        .map_err(|error| error.context(format!("{free} kB are free")))
}

/// A number of `/proc/meminfo`.
pub(crate) fn kilobytes(meminfo: &str, name: &str) -> Result<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    match line.map(|line| line.trim().trim_end_matches(" kB").parse()) {
        Some(Ok(number)) => Ok(number),
        _ => bail!("no {name} in {meminfo}"),
    }
}
