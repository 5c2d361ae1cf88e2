//! Deployments: from `kubectl apply` to answers from three nodes.

use std::{
    collections::BTreeSet,
    io::Read,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, manifest, run};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "apply_runs_three_replicas_on_different_nodes",
        apply_runs_three_replicas_on_different_nodes,
    ),
    (
        "curl_from_the_host_reaches_every_pod",
        curl_from_the_host_reaches_every_pod,
    ),
    (
        "logs_follow_shows_what_is_written_next",
        logs_follow_shows_what_is_written_next,
    ),
    (
        "exec_passes_input_output_and_exit_code",
        exec_passes_input_output_and_exit_code,
    ),
    ("top_pods_shows_each_container", top_pods_shows_each_container),
    ("applying_again_changes_nothing", applying_again_changes_nothing),
    ("scale_up_and_down_follows", scale_up_and_down_follows),
    (
        "rolling_update_replaces_every_pod_and_can_be_undone",
        rolling_update_replaces_every_pod_and_can_be_undone,
    ),
    (
        "a_rollout_that_is_stuck_keeps_serving_and_can_be_undone",
        a_rollout_that_is_stuck_keeps_serving_and_can_be_undone,
    ),
    (
        "drained_node_is_empty_and_stays_so_until_uncordoned",
        drained_node_is_empty_and_stays_so_until_uncordoned,
    ),
    ("describe_explains_what_happened", describe_explains_what_happened),
    (
        "deleting_the_deployment_deletes_its_pods",
        deleting_the_deployment_deletes_its_pods,
    ),
];

pub(crate) fn apply_web(rack: &Rack) -> Result<()> {
    // a pod for each node
    rack.await_nodes()?;
    rack.kubectl(&["apply", "-f", &manifest("web.yaml")])?;
    rack.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    eventually(PATIENCE, "three ready web pods", || {
        Ok(rack.ready_pods("app=web")?.len() == 3)
    })?;
    Ok(())
}

pub(crate) fn delete_web(rack: &Rack) -> Result<()> {
    rack.kubectl(&[
        "delete",
        "-f",
        &manifest("web.yaml"),
        "--ignore-not-found",
        "--timeout=120s",
    ])?;
    eventually(PATIENCE, "no web pods", || {
        Ok(rack
            .kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?
            .is_empty())
    })?;
    Ok(())
}

fn apply_runs_three_replicas_on_different_nodes(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let table = rack.kubectl(&["get", "deploy,rs,pods", "-o", "wide"])?;
    ensure!(
        table.contains("deployment.apps/web") && table.contains("replicaset.apps/web-"),
        "{table}"
    );
    let nodes: BTreeSet<String> = rack.ready_pods("app=web")?.into_iter().map(|pod| pod.node).collect();
    ensure!(nodes.len() == 3, "pods are on {nodes:?}\n{table}");
    Ok(())
}

fn curl_from_the_host_reaches_every_pod(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    for pod in rack.ready_pods("app=web")? {
        let url = format!("http://{}:8080/", pod.ip);
        // the pod is Ready as soon as its process runs; the server in it needs a moment more
        let answer =
            run(Command::new("curl").args(["-sS", "--retry", "5", "--retry-connrefused", "--retry-delay", "1", &url]))?;
        ensure!(
            answer.trim() == pod.name,
            "{url} answered {answer:?} instead of {}",
            pod.name
        );
    }
    Ok(())
}

fn logs_follow_shows_what_is_written_next(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let pod = rack.ready_pods("app=web")?.pop().context("no pod")?;
    let mut child = rack
        .kubectl_command(&["logs", "-f", &pod.name])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let mut out = child.stdout.take().context("no output")?;
    let reader = std::thread::spawn(move || {
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        while !seen.contains("/wanted-in-the-log") {
            match out.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => seen.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        seen
    });
    let asked = eventually(PATIENCE, "the request in the followed log", || {
        // a request per round: each writes a line
        run(Command::new("curl").args([
            "-s",
            "-o",
            "/dev/null",
            &format!("http://{}:8080/wanted-in-the-log", pod.ip),
        ]))?;
        Ok(reader.is_finished())
    });
    child.kill()?;
    child.wait()?;
    asked?;
    let seen = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    ensure!(seen.contains("/wanted-in-the-log"), "{seen}");
    let last = rack.kubectl(&["logs", &pod.name, "--tail=1", "--timestamps"])?;
    ensure!(last.lines().count() == 1 && last.starts_with("20"), "{last:?}");
    Ok(())
}

fn exec_passes_input_output_and_exit_code(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let pod = rack.ready_pods("app=web")?.pop().context("no pod")?;
    let name = rack.kubectl(&["exec", &pod.name, "--", "hostname"])?;
    ensure!(name.trim() == pod.name, "{name:?}");
    let text = "a line\n".repeat(20_000);
    let echoed = rack.kubectl_with(&["exec", "-i", &pod.name, "--", "cat"], &text)?;
    ensure!(echoed == text, "{} bytes came back of {}", echoed.len(), text.len());
    let status = rack
        .kubectl_command(&["exec", &pod.name, "--", "sh", "-c", "echo wrong >&2; exit 42"])
        .output()?;
    ensure!(status.status.code() == Some(42), "{status:?}");
    ensure!(String::from_utf8_lossy(&status.stderr).contains("wrong"), "{status:?}");
    let refused = rack.kubectl_fails(&["exec", &pod.name, "--", "no-such-program"])?;
    ensure!(refused.contains("no-such-program"), "{refused}");
    Ok(())
}

fn top_pods_shows_each_container(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    eventually(PATIENCE, "three pods in kubectl top", || {
        let table = rack.kubectl(&["top", "pods", "-l", "app=web", "--containers", "--no-headers"])?;
        Ok(table
            .lines()
            .filter(|line| line.contains("web") && line.contains("Mi"))
            .count()
            == 3)
    })?;
    Ok(())
}

fn applying_again_changes_nothing(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let before = rack.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.metadata.generation}"])?;
    let printed = rack.kubectl(&["apply", "-f", &manifest("web.yaml")])?;
    ensure!(printed.contains("unchanged"), "{printed}");
    ensure!(rack.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.metadata.generation}"])? == before);
    Ok(())
}

fn scale_up_and_down_follows(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    rack.kubectl(&["scale", "deployment/web", "--replicas=6"])?;
    eventually(
        PATIENCE,
        "six ready pods",
        || Ok(rack.ready_pods("app=web")?.len() == 6),
    )?;
    let per_node = rack
        .ready_pods("app=web")?
        .into_iter()
        .fold(std::collections::BTreeMap::new(), |mut count, pod| {
            *count.entry(pod.node).or_insert(0) += 1;
            count
        });
    ensure!(per_node.values().all(|count| *count == 2), "not spread: {per_node:?}");
    rack.kubectl(&["scale", "deployment/web", "--replicas=3"])?;
    eventually(PATIENCE, "three pods", || {
        Ok(rack
            .kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?
            .lines()
            .count()
            == 3)
    })?;
    Ok(())
}

fn rolling_update_replaces_every_pod_and_can_be_undone(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let names = |pods: Vec<minidc_tests::ReadyPod>| pods.into_iter().map(|pod| pod.name).collect::<BTreeSet<_>>();
    let before = names(rack.ready_pods("app=web")?);
    rack.kubectl(&["set", "env", "deployment/web", "ROUND=2"])?;
    rack.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    let after = names(rack.ready_pods("app=web")?);
    ensure!(after.len() == 3 && before.is_disjoint(&after), "{before:?} {after:?}");
    let pod = after.first().context("no pod")?;
    ensure!(rack.kubectl(&["exec", pod, "--", "sh", "-c", "echo $ROUND"])?.trim() == "2");
    rack.kubectl(&["rollout", "undo", "deployment/web"])?;
    rack.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    let history = rack.kubectl(&["rollout", "history", "deployment/web"])?;
    ensure!(
        history
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .count()
            >= 2,
        "{history}"
    );
    Ok(())
}

fn a_rollout_that_is_stuck_keeps_serving_and_can_be_undone(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    rack.kubectl(&["set", "image", "deployment/web", "web=minidc.local/nowhere:1"])?;
    eventually(PATIENCE, "a pod that waits for its image", || {
        let table = rack.kubectl(&["get", "pods", "-l", "app=web"])?;
        Ok(table.contains("ErrImagePull") || table.contains("ImagePullBackOff"))
    })?;
    rack.kubectl_fails(&["rollout", "status", "deployment/web", "--timeout=1s"])?;
    let ready = rack.ready_pods("app=web")?.len();
    ensure!(ready >= 3, "only {ready} pods serve");
    rack.kubectl(&["rollout", "undo", "deployment/web"])?;
    rack.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
    Ok(())
}

fn drained_node_is_empty_and_stays_so_until_uncordoned(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let drained = || -> Result<()> {
        rack.kubectl(&[
            "drain",
            "pi-3",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=120s",
        ])?;
        ensure!(rack.kubectl(&["get", "nodes"])?.contains("Ready,SchedulingDisabled"));
        eventually(PATIENCE, "three ready pods on the other nodes", || {
            let ready = rack.ready_pods("app=web")?;
            Ok(ready.len() == 3 && ready.iter().all(|pod| pod.node != "pi-3"))
        })?;
        Ok(())
    };
    let result = drained();
    rack.kubectl(&["uncordon", "pi-3"])?;
    result
}

fn describe_explains_what_happened(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    let words = [
        "ScalingReplicaSet",
        "Available",
        "MinimumReplicasAvailable",
        "NewReplicaSetAvailable",
        "StrategyType:",
    ];
    rack.describes("deployment", "web", &words)?;
    let pod = rack.ready_pods("app=web")?.pop().context("no pod")?;
    let words = [
        "Scheduled",
        "Successfully assigned default/",
        "Pulled",
        "Created",
        "Started",
        "Controlled By:",
        "ContainersReady",
        "QoS Class:",
    ];
    rack.describes("pod", &pod.name, &words)
}

fn deleting_the_deployment_deletes_its_pods(rack: &Rack) -> Result<()> {
    apply_web(rack)?;
    delete_web(rack)?;
    eventually(PATIENCE, "no web replica sets", || {
        Ok(rack.kubectl(&["get", "rs", "-l", "app=web", "-o", "name"])?.is_empty())
    })
    .map(drop)
}
