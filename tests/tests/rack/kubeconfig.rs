//! A laptop that flashed the cards: it holds the cluster's identity, and finds the rack wherever that is.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, minidc};

use crate::{failures::move_control_plane, names::guest};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_laptop_with_the_identity_gets_a_kubeconfig_that_works_without_dns",
        a_laptop_with_the_identity_gets_a_kubeconfig_that_works_without_dns,
    ),
    (
        "a_laptop_finds_the_rack_again_at_a_new_address",
        a_laptop_finds_the_rack_again_at_a_new_address,
    ),
    (
        "another_cluster_of_the_same_name_is_not_taken_for_ours",
        another_cluster_of_the_same_name_is_not_taken_for_ours,
    ),
];

/// Where the laptop keeps what it needs; its `/run` is seen from outside.
const HOME: &str = "/run/laptop";

/// Brings the program to the laptop, and the cluster's identity as `minidc flash` leaves it; gives the folder as seen from outside.
fn equip(rack: &Rack) -> Result<PathBuf> {
    let laptop = guest(rack, "laptop")?;
    let boards = minidc_rack::Rack::open(&rack.name)?;
    let home = boards.node_path(boards.node_index(laptop)?, HOME);
    let cluster = home.join("minidc/clusters").join(&rack.name);
    if cluster.exists() {
        return Ok(home);
    }
    std::fs::create_dir_all(&cluster)?;
    std::fs::copy(minidc()?, home.join("program"))?;
    let pki = boards.node_path(1, "/var/lib/minidc/server/pki");
    for entry in std::fs::read_dir(&pki).with_context(|| format!("read {}", pki.display()))? {
        let entry = entry?;
        std::fs::copy(entry.path(), cluster.join(entry.file_name()))?;
    }
    Ok(home)
}

/// Runs minidc on the laptop.
fn on_laptop(rack: &Rack, words: &str) -> Result<String> {
    let command = format!("XDG_CONFIG_HOME={HOME} {HOME}/program {words}");
    rack.in_node("laptop", &["env", "-u", "KUBECONFIG", "sh", "-c", &command])
}

fn kubectl_on_laptop(rack: &Rack, kubeconfig: &str) -> Result<String> {
    let command = format!("KUBECONFIG={kubeconfig} KUBECACHEDIR={HOME}/cache kubectl get nodes --no-headers");
    rack.in_node("laptop", &["sh", "-c", &command])
}

fn server_in(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let server = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: https://"));
    Ok(server.context("no server")?.to_owned())
}

fn a_laptop_with_the_identity_gets_a_kubeconfig_that_works_without_dns(rack: &Rack) -> Result<()> {
    let home = equip(rack)?;
    let boards = minidc_rack::Rack::open(&rack.name)?;
    on_laptop(rack, &format!("kubeconfig --output {HOME}/kubeconfig --timeout 2m"))?;
    let address = format!("{}:6443", boards.node_address(1));
    let kept = home.join("minidc/clusters").join(&rack.name).join("kubeconfig");
    for file in [&home.join("kubeconfig"), &kept] {
        ensure!(server_in(file)? == address, "{}", server_in(file)?);
        ensure!(std::fs::metadata(file)?.permissions().mode() & 0o777 == 0o600);
    }
    eventually(PATIENCE, "three Ready nodes, seen from the laptop", || {
        let nodes = kubectl_on_laptop(rack, &format!("{HOME}/kubeconfig"))?;
        ensure!(nodes.matches(" Ready ").count() == 3, "{nodes}");
        Ok(true)
    })?;
    // the name in the certificate counts, not the address: as through a tunnel
    let printed = on_laptop(rack, &format!("kubeconfig --server {address}"))?;
    ensure!(
        printed.contains(&format!("tls-server-name: server.{}.minidc", rack.name)),
        "{printed}"
    );
    // other commands use it, too
    ensure!(on_laptop(rack, "node list")?.contains("pi-3"));
    Ok(())
}

fn a_laptop_finds_the_rack_again_at_a_new_address(rack: &Rack) -> Result<()> {
    let home = equip(rack)?;
    let boards = minidc_rack::Rack::open(&rack.name)?;
    let (old, new) = (
        boards.node_address(1).to_string(),
        format!("10.77.{}.62", boards.subnet()),
    );
    let script = format!(
        "XDG_CONFIG_HOME={HOME} {HOME}/program kubeconfig --output {HOME}/followed --watch >{HOME}/watch.log 2>&1 & echo $! >{HOME}/watch.pid"
    );
    rack.in_node("laptop", &["env", "-u", "KUBECONFIG", "sh", "-c", &script])?;
    let leads_to = |address: &str| {
        eventually(PATIENCE, format!("the file leads to {address}"), || {
            let server = server_in(&home.join("followed"))?;
            ensure!(server == format!("{address}:6443"), "{server}");
            Ok(kubectl_on_laptop(rack, &format!("{HOME}/followed")).is_ok())
        })
    };
    let begun = leads_to(&old);
    move_control_plane(rack, &boards, &new)?;
    let found = leads_to(&new);
    move_control_plane(rack, &boards, &old)?;
    let back = leads_to(&old);
    let log = rack.in_node(
        "laptop",
        &[
            "sh",
            "-c",
            &format!("kill -INT $(cat {HOME}/watch.pid); cat {HOME}/watch.log"),
        ],
    )?;
    println!(
        "the rack was found at its new address after {:.1?}",
        found.context(log)?
    );
    begun.and(back)?;
    rack.await_nodes()
}

fn another_cluster_of_the_same_name_is_not_taken_for_ours(rack: &Rack) -> Result<()> {
    equip(rack)?;
    // an identity of the same name that was made elsewhere, as by a server without one on its card
    let script = format!(
        "set -e; cd {HOME}; rm -rf other; mkdir -p other/minidc/clusters\n\
         printf 'name = \"other\"\\ndata = \"{HOME}/data\"\\nrun = \"{HOME}/state\"\\n' >other.toml\n\
         ./program server --no-node --config other.toml --listen 127.0.0.1:7443 --cluster {name} >other.log 2>&1 & p=$!\n\
         for i in $(seq 300); do [ -e data/server/admin.kubeconfig ] && break; sleep 0.1; done; kill $p; wait $p || true\n\
         cp -r data/server/pki other/minidc/clusters/{name}",
        name = rack.name
    );
    rack.in_node("laptop", &["sh", "-c", &script])?;
    let refused = |arguments: &str| {
        let script =
            format!("cd {HOME}; XDG_CONFIG_HOME={HOME}/other ./program kubeconfig {arguments} 2>&1 && exit 1; exit 0");
        rack.in_node("laptop", &["env", "-u", "KUBECONFIG", "sh", "-c", &script])
    };
    // it looks for its own until its time is up, and may not even have heard of the other by then
    eventually(PATIENCE, "what is said of the other cluster", || {
        let found = refused("--timeout 10s")?;
        ensure!(
            found.contains(&format!("a cluster named {} is on this network", rack.name))
                && found.contains("its CA is not the one"),
            "{found}"
        );
        Ok(true)
    })?;
    let address = minidc_rack::Rack::open(&rack.name)?.node_address(1);
    let named = refused(&format!("--server {address}"))?;
    ensure!(named.contains("it has another CA"), "{named}");
    Ok(())
}
