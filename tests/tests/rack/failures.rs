//! Failures: cut power, killed processes, a control plane that is away.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, condition, eventually, in_time, run};

use crate::deployments::{apply_web, delete_web};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "unplugged_node_is_not_ready_and_its_pods_are_replaced",
        unplugged_node_is_not_ready_and_its_pods_are_replaced,
    ),
    (
        "killed_agent_comes_back_and_its_containers_kept_running",
        killed_agent_comes_back_and_its_containers_kept_running,
    ),
    (
        "killed_control_plane_loses_nothing_and_nodes_are_back",
        killed_control_plane_loses_nothing_and_nodes_are_back,
    ),
    (
        "a_node_without_control_plane_keeps_its_pods_and_says_so",
        a_node_without_control_plane_keeps_its_pods_and_says_so,
    ),
    (
        "a_control_plane_whose_own_cable_is_out_evicts_nobody",
        a_control_plane_whose_own_cable_is_out_evicts_nobody,
    ),
    (
        "killed_containerd_keeps_pods_running",
        killed_containerd_keeps_pods_running,
    ),
    (
        "a_power_cut_of_the_control_plane_loses_nothing",
        a_power_cut_of_the_control_plane_loses_nothing,
    ),
    (
        "a_control_plane_at_a_new_address_is_found_and_nobody_is_evicted",
        a_control_plane_at_a_new_address_is_found_and_nobody_is_evicted,
    ),
    (
        "an_older_store_changes_nothing_until_it_is_adopted",
        an_older_store_changes_nothing_until_it_is_adopted,
    ),
];

fn led(rack: &Rack, node: &str) -> Result<String> {
    let all = rack.rack("leds", &["--once"])?;
    Ok(all
        .lines()
        .find(|line| line.contains(node))
        .context("no such node in rack leds")?
        .to_owned())
}

fn unplugged_node_is_not_ready_and_its_pods_are_replaced(rack: &Rack) -> Result<()> {
    let promised = [
        ("power cut to NotReady", Duration::from_secs(5)),
        ("to its pods Ready elsewhere", Duration::from_secs(10)),
    ];
    in_time(promised, || cut_power_of_the_third(rack))
}

/// Cuts pi-3's power and gives it back. Returns the times from the cut until it was NotReady, and until its pods were
/// Ready elsewhere.
fn cut_power_of_the_third(rack: &Rack) -> Result<[Duration; 2]> {
    apply_web(rack)?;
    let before = rack.ready_pods("app=web")?;
    ensure!(before.iter().any(|pod| pod.node == "pi-3"), "{before:?}");
    let cut = Instant::now();
    rack.rack("unplug", &["pi-3"])?;
    eventually(PATIENCE, "pi-3 NotReady", || Ok(!rack.node_is("pi-3", "True")?))?;
    let unready = cut.elapsed();
    eventually(PATIENCE, "three ready pods elsewhere", || {
        let pods = rack.ready_pods("app=web")?;
        Ok(pods.len() == 3 && pods.iter().all(|pod| pod.node != "pi-3"))
    })?;
    let replaced = cut.elapsed();
    ensure!(led(rack, "pi-3")?.contains("dark"), "{}", led(rack, "pi-3")?);

    rack.rack("plug", &["pi-3"])?;
    eventually(PATIENCE, "the old pod gone", || {
        let pods = rack.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?;
        Ok(pods.lines().count() == 3)
    })?;
    eventually(PATIENCE, "pi-3's LED healthy", || {
        Ok(!led(rack, "pi-3")?.contains("dark"))
    })?;
    rack.await_nodes()?;
    delete_web(rack)?;
    Ok([unready, replaced])
}

/// When each web container started, by pod.
fn started(rack: &Rack) -> Result<String> {
    rack.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}",
    ])
}

fn killed_agent_comes_back_and_its_containers_kept_running(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let before = started(rack)?;
    let uptime = rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])?;
    rack.kill_minidc("pi-2")?;
    eventually(PATIENCE, "the agent on pi-2 talks again", || {
        let pod = rack.ready_pods("app=web")?.into_iter().find(|pod| pod.node == "pi-2");
        Ok(rack
            .kubectl(&["exec", &pod.context("no pod on pi-2")?.name, "--", "true"])
            .is_ok())
    })?;
    rack.await_nodes()?;
    ensure!(started(rack)? == before, "before:\n{before}after:\n{}", started(rack)?);
    ensure!(
        rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])? == uptime,
        "the server was restarted"
    );
    Ok(())
}

fn killed_control_plane_loses_nothing_and_nodes_are_back(rack: &Rack) -> Result<()> {
    let promised = [("killed control plane to all nodes linked", Duration::from_secs(3))];
    in_time(promised, || Ok([kill_control_plane(rack)?]))
}

/// Kills the control plane in the middle of writes; the time until all nodes are linked to it again.
fn kill_control_plane(rack: &Rack) -> Result<Duration> {
    apply_web(rack)?;
    let before = started(rack)?;
    // the last acknowledged write must be there after the kill
    for round in 0..10 {
        rack.kubectl(&["create", "configmap", &format!("kept-{round}"), "--from-literal=k=v"])?;
    }
    rack.kill_minidc("pi-1")?;
    let killed = Instant::now();
    eventually(PATIENCE, "the API answers", || {
        Ok(rack.kubectl(&["get", "--raw", "/readyz"]).is_ok())
    })?;
    println!("the API answered after {:.1?}", killed.elapsed());
    eventually(PATIENCE, "all nodes linked again", || {
        let metrics = rack.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"])?;
        Ok(metrics.matches("\"pi-").count() >= 3)
    })?;
    let linked = killed.elapsed();
    for round in 0..10 {
        rack.kubectl(&["delete", "configmap", &format!("kept-{round}")])?;
    }
    rack.await_nodes()?;
    ensure!(started(rack)? == before, "before:\n{before}after:\n{}", started(rack)?);
    Ok(linked)
}

fn a_node_without_control_plane_keeps_its_pods_and_says_so(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let pod = rack
        .ready_pods("app=web")?
        .into_iter()
        .find(|pod| pod.node == "pi-2")
        .context("no pod on pi-2")?;
    let process = rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])?;
    rack.rack("unplug", &["pi-1"])?;
    eventually(PATIENCE, "pi-2's LEDs say that the control plane is away", || {
        Ok(led(rack, "pi-2")?.contains("away"))
    })?;
    // also across its own restart, with nobody to ask
    let agent = || rack.in_node("pi-2", &["pgrep", "-xP", "1", "minidc"]);
    let killed = agent()?;
    rack.kill_minidc("pi-2")?;
    eventually(PATIENCE, "pi-2's LEDs say so after its restart", || {
        Ok(agent()? != killed && led(rack, "pi-2")?.contains("away"))
    })?;
    ensure!(
        rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])? == process,
        "the pod was restarted"
    );
    let answer = rack.in_node("pi-2", &["curl", "-s", &format!("http://{}:8080/", pod.ip)])?;
    ensure!(answer.trim() == pod.name, "{answer:?}");
    rack.rack("plug", &["pi-1"])?;
    rack.await_nodes()?;
    ensure!(
        rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])? == process,
        "the pod was restarted on return"
    );
    eventually(PATIENCE, "three ready pods", || {
        Ok(rack.ready_pods("app=web")?.len() == 3)
    })
    .map(drop)
}

fn a_control_plane_whose_own_cable_is_out_evicts_nobody(rack: &Rack) -> Result<()> {
    // pods of its own: those of a board that has just been plugged in may still be told of as they were before
    delete_web(rack)?;
    apply_web(rack)?;
    let before = started(rack)?;
    let boards = minidc_rack::Rack::open(&rack.name)?;
    boards.cut_cable(1)?;
    // the host reaches pi-1 over that cable too: what happens meanwhile is seen afterwards
    let asked = eventually(PATIENCE, "the others say that the control plane is away", || {
        Ok(led(rack, "pi-2")?.contains("away") && led(rack, "pi-3")?.contains("away"))
    });
    // longer than silence and toleration together
    std::thread::sleep(Duration::from_secs(10));
    boards.join_cable(1)?;
    asked?;
    rack.await_nodes()?;
    ensure!(started(rack)? == before, "before:\n{before}after:\n{}", started(rack)?);
    Ok(())
}

fn killed_containerd_keeps_pods_running(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let process = rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])?;
    rack.in_node("pi-2", &["pkill", "-KILL", "-x", "containerd"])?;
    eventually(PATIENCE, "exec works again on pi-2", || {
        let pod = rack
            .ready_pods("app=web")?
            .into_iter()
            .find(|pod| pod.node == "pi-2")
            .context("no pod on pi-2")?;
        Ok(rack.kubectl(&["exec", &pod.name, "--", "true"]).is_ok())
    })?;
    ensure!(
        rack.in_node("pi-2", &["pgrep", "-o", "-f", "httpd -f"])? == process,
        "the pod was restarted"
    );
    Ok(())
}

fn a_power_cut_of_the_control_plane_loses_nothing(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    rack.kubectl(&["create", "configmap", "survivor", "--from-literal=k=v"])?;
    rack.rack("unplug", &["pi-1"])?;
    rack.rack("plug", &["pi-1"])?;
    eventually(PATIENCE, "the API answers", || {
        Ok(rack.kubectl(&["get", "--raw", "/readyz"]).is_ok())
    })?;
    rack.kubectl(&["delete", "configmap", "survivor"])?;
    rack.await_nodes()?;
    eventually(PATIENCE, "three ready pods", || {
        Ok(rack.ready_pods("app=web")?.len() == 3)
    })?;
    delete_web(rack)
}

/// Gives pi-1's cable another address of the same network.
pub(crate) fn move_control_plane(rack: &Rack, boards: &minidc_rack::Rack, address: &str) -> Result<()> {
    let gateway = boards.host_address();
    let change = format!(
        "ip addr flush dev eth0 scope global && ip addr add {address}/24 dev eth0 && ip route replace default via {gateway}"
    );
    rack.in_node("pi-1", &["sh", "-c", &change]).map(drop)
}

fn a_control_plane_at_a_new_address_is_found_and_nobody_is_evicted(rack: &Rack) -> Result<()> {
    delete_web(rack)?;
    apply_web(rack)?;
    let before = started(rack)?;
    let boards = minidc_rack::Rack::open(&rack.name)?;
    let old = boards.node_address(1).to_string();
    let new = format!("10.77.{}.61", boards.subnet());
    // Avahi forgets its announcements when it ends, and tells nobody who only announces
    rack.in_node("pi-1", &["pkill", "-KILL", "-x", "avahi-daemon"])?;
    let connected_to = |address: &str| {
        eventually(PATIENCE, format!("the nodes are linked to {address}"), || {
            let mut all = true;
            for node in ["pi-2", "pi-3"] {
                all &= rack
                    .in_node(node, &["minidc", "status"])?
                    .contains(&format!("connected to {address}:"));
            }
            Ok(all)
        })
    };
    move_control_plane(rack, &boards, &new)?;
    // the host's kubeconfig names the old address: what happens meanwhile is seen afterwards
    let found = connected_to(&new);
    move_control_plane(rack, &boards, &old)?;
    println!("found at its new address after {:.1?}", found?);
    connected_to(&old)?;
    rack.await_nodes()?;
    ensure!(started(rack)? == before, "before:\n{before}after:\n{}", started(rack)?);
    Ok(())
}

fn an_older_store_changes_nothing_until_it_is_adopted(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let boards = minidc_rack::Rack::open(&rack.name)?;
    let store = boards.node_path(1, "/var/lib/minidc/server/store");
    let copy = store.with_file_name("store.copy");
    let replace = |from: &std::path::Path, to: &std::path::Path| -> Result<()> {
        boards.hold_service(1, "minidc")?;
        run(Command::new("rm").arg("-rf").arg(to))?;
        run(Command::new("cp").arg("-a").arg(from).arg(to))?;
        boards.release_service(1, "minidc")?;
        eventually(PATIENCE, "the API answers", || {
            Ok(rack.kubectl(&["get", "--raw", "/readyz"]).is_ok())
        })
        .map(drop)
    };
    replace(&store, &copy)?;
    rack.kubectl(&["scale", "deployment", "web", "--replicas=6"])?;
    eventually(
        PATIENCE,
        "six ready pods",
        || Ok(rack.ready_pods("app=web")?.len() == 6),
    )?;
    let servers = || rack.in_node("pi-2", &["pgrep", "-f", "httpd -f"]);
    let running = servers()?;

    replace(&copy, &store)?;
    let waits = |wanted: &str| {
        eventually(PATIENCE, format!("ForeignStore={wanted}"), || {
            let mut all = true;
            for node in ["pi-1", "pi-2", "pi-3"] {
                all &= condition(&rack.get(&["node", node])?, "ForeignStore") == wanted;
            }
            Ok(all)
        })
    };
    waits("True")?;
    eventually(PATIENCE, "pi-2's LEDs say so", || {
        let said = led(rack, "pi-2")?;
        ensure!(said.contains("foreign-store"), "{said}");
        Ok(true)
    })?;
    ensure!(servers()? == running, "something was stopped or started");
    for node in ["pi-1", "pi-2", "pi-3"] {
        rack.in_node(node, &["minidc", "node", "adopt"])?;
    }
    waits("False")?;
    eventually(PATIENCE, "what the older store knows, and no more", || {
        let mut count = 0;
        for node in ["pi-1", "pi-2", "pi-3"] {
            count += rack
                .in_node(node, &["sh", "-c", "pgrep -f '[h]ttpd -f' || true"])?
                .lines()
                .count();
        }
        Ok(rack.ready_pods("app=web")?.len() == 3 && count == 3)
    })?;
    std::fs::remove_dir_all(copy)?;
    delete_web(rack)
}
