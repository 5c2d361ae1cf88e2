//! Joining: who is let in, who is not, and what both sides say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use minidc_tests::{Rack, eventually};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_wrong_token_is_refused_with_a_reason_on_both_sides",
        a_wrong_token_is_refused_with_a_reason_on_both_sides,
    ),
    ("a_token_works_once_only", a_token_works_once_only),
    ("a_node_joins_without_mdns", a_node_joins_without_mdns),
    (
        "a_second_live_node_of_the_same_name_is_refused",
        a_second_live_node_of_the_same_name_is_refused,
    ),
    (
        "two_clusters_share_a_network_and_a_foreign_one_gets_nothing",
        two_clusters_share_a_network_and_a_foreign_one_gets_nothing,
    ),
    (
        "a_removed_node_is_refused_until_it_gets_a_new_token",
        a_removed_node_is_refused_until_it_gets_a_new_token,
    ),
    (
        "a_node_certificate_opens_only_what_is_its_own",
        a_node_certificate_opens_only_what_is_its_own,
    ),
];

/// Runs a second, short-lived agent beside the one of `node`, with its own directories, and gives its log.
fn extra_agent(rack: &Rack, node: &str, name: &str, arguments: &str, until: &str) -> Result<String> {
    let script = format!(
        "mkdir -p /run/{name}; cat >/run/{name}/config.toml <<EOF\nname = \"{name}\"\ndata = \"/run/{name}/data\"\nrun = \"/run/{name}/run\"\n[agent]\ncontainerd = \"/run/{name}/none.sock\"\nEOF\n\
         minidc agent --config /run/{name}/config.toml {arguments} >/run/{name}/log 2>&1 & p=$!\n\
         for i in $(seq 300); do grep -q -- '{until}' /run/{name}/log && break; kill -0 $p || break; sleep 0.1; done\n\
         sleep 0.5; cat /run/{name}/run/status.json; kill $p; wait $p; cat /run/{name}/log; rm -r /run/{name}"
    );
    rack.in_node(node, &["sh", "-c", &script])
}

/// Keeps a board's own agent from running, so that another can take its place there; gives everything back at the end.
struct Alone {
    rack: minidc_rack::Rack,
    index: u32,
}

impl Alone {
    fn on(rack: &Rack, index: u32) -> Result<Self> {
        let rack = minidc_rack::Rack::open(&rack.name)?;
        rack.hold_service(index, "minidc")?;
        Ok(Self { rack, index })
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        for service in ["avahi", "minidc"] {
            if let Err(error) = self.rack.release_service(self.index, service) {
                eprintln!("{error}");
            }
        }
    }
}

fn token(rack: &Rack, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["minidc", "token", "create"];
    all.extend(arguments);
    Ok(rack.in_node("pi-1", &all)?.trim().to_owned())
}

fn server_log(rack: &Rack) -> Result<String> {
    // the rack moves a log aside that has grown large
    let logs = ["pi-1/log/minidc.log.1", "pi-1/log/minidc.log"].map(|log| rack.directory().join(log));
    Ok(logs
        .iter()
        .map(|log| std::fs::read_to_string(log).unwrap_or_default())
        .collect())
}

fn a_wrong_token_is_refused_with_a_reason_on_both_sides(rack: &Rack) -> Result<()> {
    let right = token(rack, &[])?;
    let (start, mac) = right.rsplit_once('.').context("a token has parts")?;
    // its first character: of the last one not all bits count, and a token with wrong ones there is refused by the agent itself
    let other = if mac.starts_with('A') { 'B' } else { 'A' };
    let wrong = format!("{start}.{other}{}", mac.get(1..).context("a MAC")?);
    let reason = "not made by this cluster";
    let log = extra_agent(rack, "pi-2", "intruder", &format!("--token {wrong}"), reason)?;
    ensure!(log.contains("refused") && log.contains(reason), "{log}");
    ensure!(log.matches("refused").count() < 10, "a storm of retries:\n{log}");
    eventually(Duration::from_secs(60), "the refusal in the server's log", || {
        Ok(server_log(rack)?.contains("intruder"))
    })?;
    let garbage = extra_agent(rack, "pi-2", "garbage", "--token nonsense", "token")?;
    ensure!(garbage.contains("token") && !garbage.contains("panicked"), "{garbage}");
    ensure!(!rack.kubectl(&["get", "nodes"])?.contains("intruder"));
    Ok(())
}

fn a_token_works_once_only(rack: &Rack) -> Result<()> {
    let once = token(rack, &[])?;
    let _alone = Alone::on(rack, 2)?;
    extra_agent(rack, "pi-2", "first", &format!("--token {once}"), "Connected")?;
    let log = extra_agent(rack, "pi-3", "second", &format!("--token {once}"), "token-used")?;
    ensure!(log.contains("token-used"), "{log}");
    ensure!(rack.minidc(&["token", "list"])?.contains("first"));
    rack.minidc(&["node", "remove", "first"]).map(drop)
}

fn a_node_joins_without_mdns(rack: &Rack) -> Result<()> {
    let fresh = token(rack, &["--node", "wired"])?;
    let server = rack.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let address = server.trim_start_matches("https://");
    let _alone = Alone::on(rack, 3)?;
    // without Avahi there is no mDNS
    minidc_rack::Rack::open(&rack.name)?.hold_service(3, "avahi")?;
    let log = extra_agent(
        rack,
        "pi-3",
        "wired",
        &format!("--server {address} --token {fresh}"),
        "Connected",
    )?;
    ensure!(log.contains("Connected"), "{log}");
    let other = extra_agent(
        rack,
        "pi-3",
        "wireless",
        &format!("--server {address} --token {fresh}"),
        "token-other-node",
    )?;
    ensure!(other.contains("token-other-node"), "{other}");
    rack.minidc(&["node", "remove", "wired"]).map(drop)
}

fn a_second_live_node_of_the_same_name_is_refused(rack: &Rack) -> Result<()> {
    let fresh = token(rack, &[])?;
    let log = extra_agent(rack, "pi-3", "pi-2", &format!("--token {fresh}"), "duplicate-name")?;
    ensure!(log.contains("duplicate-name"), "{log}");
    ensure!(rack.node_is("pi-2", "True")?);
    eventually(Duration::from_secs(60), "the refusal in the server's log", || {
        Ok(server_log(rack)?.contains("duplicate-name"))
    })
    .map(drop)
}

fn two_clusters_share_a_network_and_a_foreign_one_gets_nothing(rack: &Rack) -> Result<()> {
    // a second control plane on pi-3, announced on the same network under the same cluster name: its CA is another
    let cluster = rack.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].name}"])?;
    let script = format!(
        "mkdir -p /run/rogue; cat >/run/rogue/config.toml <<EOF\nname = \"rogue\"\ndata = \"/run/rogue/data\"\nrun = \"/run/rogue/run\"\nEOF\n\
         minidc server --no-node --config /run/rogue/config.toml --listen 0.0.0.0:7443 --cluster {cluster} >/run/rogue/log 2>&1 & echo $! >/run/rogue/pid\n\
         for i in $(seq 300); do [ -e /run/rogue/data/server/admin.kubeconfig ] && break; sleep 0.1; done; sleep 2"
    );
    rack.in_node("pi-3", &["sh", "-c", &script])?;
    // a node of the first cluster that must look for its control plane again goes to its own
    rack.kill_minidc("pi-2")?;
    let back = eventually(Duration::from_secs(60), "pi-2 back in its own cluster", || {
        let metrics = rack.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"])?;
        Ok(metrics.contains("\"pi-2\""))
    });
    // a token of the first cluster shown to the rogue: it is never sent, since the CA is another
    let fresh = token(rack, &[])?;
    let refused = extra_agent(
        rack,
        "pi-2",
        "lured",
        &format!("--server $(hostname -I | cut -d' ' -f1 | sed 's/[0-9]*$/3/'):7443 --token {fresh}"),
        "pin",
    );
    let rogue = rack.in_node(
        "pi-3",
        &[
            "sh",
            "-c",
            "kill $(cat /run/rogue/pid); cat /run/rogue/log; rm -r /run/rogue",
        ],
    )?;
    back?;
    let refused = refused?;
    ensure!(
        !rogue.contains("lured"),
        "the rogue saw more than a broken handshake:\n{rogue}"
    );
    ensure!(refused.contains("pin") || refused.contains("foreign"), "{refused}");
    rack.minidc(&["node", "remove", "lured"]).ok();
    Ok(())
}

fn a_removed_node_is_refused_until_it_gets_a_new_token(rack: &Rack) -> Result<()> {
    rack.minidc(&["node", "remove", "pi-3"])?;
    eventually(Duration::from_secs(60), "pi-3 says that it was removed", || {
        Ok(rack
            .rack("leds", &["--once"])?
            .lines()
            .any(|line| line.contains("pi-3") && line.contains("refused")))
    })?;
    ensure!(!rack.kubectl(&["get", "nodes"])?.contains("pi-3"));
    let fresh = token(rack, &["--node", "pi-3"])?;
    let change = format!("sed -i 's/^token = .*/token = \"{fresh}\"/' /etc/minidc/config.toml");
    rack.in_node("pi-3", &["sh", "-c", &change])?;
    rack.kill_minidc("pi-3")?;
    eventually(Duration::from_secs(60), "pi-3 Ready again", || {
        rack.node_is("pi-3", "True")
    })
    .map(drop)
}

fn a_node_certificate_opens_only_what_is_its_own(rack: &Rack) -> Result<()> {
    let server = rack.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let code = |path: &str| {
        let command = format!(
            "cd /run && jq -r .certificate /var/lib/minidc/agent/identity.json >c && jq -r .key /var/lib/minidc/agent/identity.json >k && \
             curl -sk -o /dev/null -w '%{{http_code}}' --cert c --key k {server}{path}; code=$?; rm c k; exit $code"
        );
        rack.in_node("pi-2", &["sh", "-c", &command])
    };
    ensure!(code("/api/v1/nodes/pi-2")? == "200");
    let secrets = code("/api/v1/namespaces/kube-system/secrets")?;
    ensure!(secrets == "403", "a node may list secrets: {secrets}");
    Ok(())
}
