//! Pods: what of their specification is acted on.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, manifest};
use serde_json::Value;

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_pod_gets_its_environment_and_volumes",
        a_pod_gets_its_environment_and_volumes,
    ),
    (
        "a_changed_config_map_reaches_the_mounted_file",
        a_changed_config_map_reaches_the_mounted_file,
    ),
    ("a_pod_that_ends_well_is_succeeded", a_pod_that_ends_well_is_succeeded),
    (
        "a_crashing_container_backs_off_and_says_its_exit_code",
        a_crashing_container_backs_off_and_says_its_exit_code,
    ),
    (
        "a_container_over_its_memory_limit_is_oom_killed",
        a_container_over_its_memory_limit_is_oom_killed,
    ),
    (
        "on_failure_restarts_until_it_ends_well_and_previous_logs_stay",
        on_failure_restarts_until_it_ends_well_and_previous_logs_stay,
    ),
    ("limits_reach_the_cgroup", limits_reach_the_cgroup),
    ("exec_with_a_terminal_is_a_terminal", exec_with_a_terminal_is_a_terminal),
    (
        "pod_deleted_while_it_starts_goes_at_once",
        pod_deleted_while_it_starts_goes_at_once,
    ),
    ("a_list_is_applied_item_by_item", a_list_is_applied_item_by_item),
    ("an_image_nobody_has_is_said_so", an_image_nobody_has_is_said_so),
    ("a_pod_that_fits_nowhere_says_why", a_pod_that_fits_nowhere_says_why),
    ("termination_grace_is_given", termination_grace_is_given),
    (
        "init_containers_run_first_and_in_order",
        init_containers_run_first_and_in_order,
    ),
    (
        "a_field_not_acted_on_is_warned_about",
        a_field_not_acted_on_is_warned_about,
    ),
    (
        "a_wrong_field_is_refused_with_its_path",
        a_wrong_field_is_refused_with_its_path,
    ),
    (
        "selectors_and_patches_work_as_in_kubernetes",
        selectors_and_patches_work_as_in_kubernetes,
    ),
    ("watching_pods_shows_each_change", watching_pods_shows_each_change),
    (
        "deleting_a_namespace_deletes_what_is_in_it",
        deleting_a_namespace_deletes_what_is_in_it,
    ),
];

/// A pod of one container that runs `script` in the demo image's shell.
fn pod(name: &str, script: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n{spec}  \
         containers:\n  - name: main\n    image: minidc.local/web:1\n    command: [\"/bin/sh\", \"-c\", {script:?}]\n"
    )
}

fn delete(rack: &Rack, name: &str) -> Result<()> {
    rack.kubectl(&["delete", "pod", name, "--timeout=120s"]).map(drop)
}

fn container_state(rack: &Rack, name: &str) -> Result<Value> {
    Ok(rack
        .get(&["pod", name])?
        .pointer("/status/containerStatuses/0")
        .cloned()
        .unwrap_or_default())
}

fn a_pod_gets_its_environment_and_volumes(rack: &Rack) -> Result<()> {
    rack.kubectl(&["apply", "-f", &manifest("everything.yaml")])?;
    rack.wait_for_phase("everything", "Succeeded", PATIENCE)?;
    let log = rack.kubectl(&["logs", "everything"])?;
    let pod = rack.get(&["pod", "everything"])?;
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    for expected in [
        "plain=a value with a value inside".to_owned(),
        "from-config=blue".to_owned(),
        "from-secret=hunter2".to_owned(),
        "all-of-config=blue".to_owned(),
        "name=everything".to_owned(),
        format!("node={}", text("/spec/nodeName")),
        "limit=64".to_owned(),
        "config-file=blue".to_owned(),
        "secret-file=hunter2".to_owned(),
        "secret-on-tmpfs=yes".to_owned(),
        "scratch=written".to_owned(),
        "host=shared".to_owned(),
        "directory=/tmp".to_owned(),
        "user=1000".to_owned(),
    ] {
        ensure!(
            log.lines().any(|line| line == expected),
            "no line {expected:?} in the log\n{log}"
        );
    }
    ensure!(text("/status/qosClass") == "Burstable");
    ensure!(
        text("/status/containerStatuses/0/state/terminated/message") == "the last words",
        "{pod:#}"
    );
    rack.kubectl(&["delete", "-f", &manifest("everything.yaml"), "--timeout=120s"])?;
    Ok(())
}

fn a_changed_config_map_reaches_the_mounted_file(rack: &Rack) -> Result<()> {
    rack.kubectl(&["create", "configmap", "live", "--from-literal=word=before"])?;
    let spec = "  volumes:\n  - name: live\n    configMap:\n      name: live\n";
    let text = pod("live", "sleep 600", spec) + "    volumeMounts:\n    - name: live\n      mountPath: /live\n";
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    rack.wait_for_phase("live", "Running", PATIENCE)?;
    ensure!(rack.kubectl(&["exec", "live", "--", "cat", "/live/word"])? == "before");
    rack.kubectl(&["patch", "configmap", "live", "-p", r#"{"data":{"word":"after"}}"#])?;
    eventually(PATIENCE, "the new word in the pod", || {
        Ok(rack.kubectl(&["exec", "live", "--", "cat", "/live/word"])? == "after")
    })?;
    delete(rack, "live")?;
    rack.kubectl(&["delete", "configmap", "live"]).map(drop)
}

fn a_pod_that_ends_well_is_succeeded(rack: &Rack) -> Result<()> {
    rack.kubectl_with(&["apply", "-f", "-"], &pod("done", "echo finished", ""))?;
    rack.wait_for_phase("done", "Succeeded", PATIENCE)?;
    let state = container_state(rack, "done")?;
    ensure!(
        state.pointer("/state/terminated/reason") == Some(&"Completed".into()),
        "{state:#}"
    );
    ensure!(rack.kubectl(&["logs", "done"])?.trim() == "finished");
    ensure!(rack.kubectl(&["get", "pod", "done"])?.contains("Completed"));
    delete(rack, "done")
}

fn a_crashing_container_backs_off_and_says_its_exit_code(rack: &Rack) -> Result<()> {
    let text = pod("crash", "exit 3", "").replace("restartPolicy: Never", "restartPolicy: Always");
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    eventually(PATIENCE, "CrashLoopBackOff after a restart", || {
        let state = container_state(rack, "crash")?;
        Ok(
            state.pointer("/state/waiting/reason") == Some(&"CrashLoopBackOff".into())
                && state.pointer("/lastState/terminated/exitCode") == Some(&3.into())
                && state["restartCount"].as_u64() >= Some(1),
        )
    })?;
    rack.describes("pod", "crash", &["Back-off restarting failed container"])?;
    delete(rack, "crash")
}

fn a_container_over_its_memory_limit_is_oom_killed(rack: &Rack) -> Result<()> {
    // tail keeps the whole endless line in memory
    let text = pod("greedy", "tail /dev/zero", "") + "    resources:\n      limits:\n        memory: 24Mi\n";
    let mut reasons = Vec::new();
    // containerd hears of the end and of its cause on two ways, and may ask no more for the one after the other
    while reasons.len() < 3 && reasons.last().is_none_or(|reason| reason != "OOMKilled") {
        rack.kubectl_with(&["apply", "-f", "-"], &text)?;
        rack.wait_for_phase("greedy", "Failed", PATIENCE)?;
        let state = container_state(rack, "greedy")?;
        ensure!(
            state.pointer("/state/terminated/exitCode") == Some(&137.into()),
            "{state:#}"
        );
        reasons.push(state["state"]["terminated"]["reason"].clone());
        delete(rack, "greedy")?;
    }
    ensure!(
        reasons.last().is_some_and(|reason| reason == "OOMKilled"),
        "{reasons:?}"
    );
    Ok(())
}

fn on_failure_restarts_until_it_ends_well_and_previous_logs_stay(rack: &Rack) -> Result<()> {
    let script = "if [ -f /w/x ]; then echo second; exit 0; fi; echo first; touch /w/x; exit 5";
    let text = pod("again", script, "  volumes:\n  - name: w\n    emptyDir: {}\n")
        .replace("restartPolicy: Never", "restartPolicy: OnFailure")
        + "    volumeMounts:\n    - name: w\n      mountPath: /w\n";
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    rack.wait_for_phase("again", "Succeeded", PATIENCE)?;
    let state = container_state(rack, "again")?;
    ensure!(state["restartCount"] == 1, "{state:#}");
    ensure!(
        state.pointer("/lastState/terminated/exitCode") == Some(&5.into()),
        "{state:#}"
    );
    ensure!(rack.kubectl(&["logs", "again"])?.trim() == "second");
    ensure!(rack.kubectl(&["logs", "again", "--previous"])?.trim() == "first");
    delete(rack, "again")
}

fn limits_reach_the_cgroup(rack: &Rack) -> Result<()> {
    let script = "cd /sys/fs/cgroup; if [ -f memory.max ]; then cat memory.max cpu.max; \
                  else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us; fi";
    let text = pod("limited", script, "") + "    resources:\n      limits:\n        memory: 40Mi\n        cpu: 200m\n";
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    rack.wait_for_phase("limited", "Succeeded", PATIENCE)?;
    let log = rack.kubectl(&["logs", "limited"])?;
    let words: Vec<&str> = log.split_whitespace().collect();
    ensure!(words.first() == Some(&"41943040"), "{log}");
    ensure!(words.get(1) == Some(&"20000"), "{log}");
    delete(rack, "limited")
}

fn exec_with_a_terminal_is_a_terminal(rack: &Rack) -> Result<()> {
    rack.kubectl_with(&["apply", "-f", "-"], &pod("terminal", "sleep 600", ""))?;
    rack.wait_for_phase("terminal", "Running", PATIENCE)?;
    let program = rack.kubectl_command(&[]).get_program().to_string_lossy().into_owned();
    // script gives kubectl a terminal of its own
    let inside = format!("{program} exec -it terminal -- sh -c 'test -t 0 && test -t 1 && tty; exit 4'");
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &inside, "/dev/null"]).stdin(Stdio::null());
    for (name, value) in rack.kubectl_command(&[]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("/dev/pts/"), "{text}");
    ensure!(output.status.code() == Some(4), "{output:?}");
    delete(rack, "terminal")
}

fn pod_deleted_while_it_starts_goes_at_once(rack: &Rack) -> Result<()> {
    for round in 0..6 {
        rack.kubectl_with(&["apply", "-f", "-"], &pod("hasty", "sleep 600", ""))?;
        // each round comes at another moment of the start; there is nothing to wait for but time
        std::thread::sleep(Duration::from_millis(round * 60));
        delete(rack, "hasty").with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn a_list_is_applied_item_by_item(rack: &Rack) -> Result<()> {
    let item =
        |name: &str| format!("- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{k: v}}}}\n");
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n{}{}",
        item("first"),
        item("second")
    );
    let printed = rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    ensure!(printed.matches(" created").count() == 2, "{printed}");
    rack.kubectl(&["delete", "configmaps", "first", "second"]).map(drop)
}

fn an_image_nobody_has_is_said_so(rack: &Rack) -> Result<()> {
    let text = pod("nowhere", "true", "").replace(
        "minidc.local/web:1",
        "minidc.local/nowhere:1\n    imagePullPolicy: Never",
    );
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    eventually(PATIENCE, "ErrImageNeverPull", || {
        Ok(container_state(rack, "nowhere")?.pointer("/state/waiting/reason") == Some(&"ErrImageNeverPull".into()))
    })?;
    rack.describes("pod", "nowhere", &["minidc.local/nowhere:1"])?;
    delete(rack, "nowhere")
}

fn a_pod_that_fits_nowhere_says_why(rack: &Rack) -> Result<()> {
    // a node that is not open to pods would be another reason
    rack.await_nodes()?;
    let text = pod("huge", "true", "") + "    resources:\n      requests:\n        memory: 900Ti\n";
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    let words = ["FailedScheduling", "0/3 nodes are available: 3 Insufficient memory"];
    rack.describes("pod", "huge", &words)?;
    ensure!(rack.kubectl(&["get", "pod", "huge"])?.contains("Pending"));
    delete(rack, "huge")
}

fn termination_grace_is_given(rack: &Rack) -> Result<()> {
    let script = "trap 'echo told; sleep 2; echo done; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let text = pod("graceful", script, "").replace("GracePeriodSeconds: 1", "GracePeriodSeconds: 60");
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    eventually(PATIENCE, "ready in the log", || {
        Ok(rack.kubectl(&["logs", "graceful"])?.contains("ready"))
    })?;
    let mut follow = rack
        .kubectl_command(&["logs", "-f", "graceful"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut log = BufReader::new(follow.stdout.take().context("no output")?);
    let mut said = String::new();
    // it follows once it has told what was there
    log.read_line(&mut said)?;
    let begin = Instant::now();
    rack.kubectl(&["delete", "pod", "graceful", "--timeout=120s"])?;
    let took = begin.elapsed();
    ensure!((2..55).contains(&took.as_secs()), "the pod took {took:?} to go");
    log.read_to_string(&mut said)?;
    follow.wait()?;
    ensure!(said.contains("told") && said.contains("done"), "{said}");
    Ok(())
}

fn init_containers_run_first_and_in_order(rack: &Rack) -> Result<()> {
    let init = |name: &str| {
        format!(
            "  - name: {name}\n    image: minidc.local/web:1\n    command: [\"/bin/sh\", \"-c\", \"echo {name} >>/scratch/order\"]\n    \
             volumeMounts:\n    - name: scratch\n      mountPath: /scratch\n"
        )
    };
    let spec = format!(
        "  volumes:\n  - name: scratch\n    emptyDir: {{}}\n  initContainers:\n{}{}",
        init("first"),
        init("second")
    );
    let text = pod("ordered", "cat /scratch/order", &spec)
        + "    volumeMounts:\n    - name: scratch\n      mountPath: /scratch\n";
    rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    rack.wait_for_phase("ordered", "Succeeded", PATIENCE)?;
    ensure!(rack.kubectl(&["logs", "ordered"])? == "first\nsecond\n");
    delete(rack, "ordered")
}

fn a_field_not_acted_on_is_warned_about(rack: &Rack) -> Result<()> {
    let text = pod("warned", "sleep 600", "  priorityClassName: high\n");
    let printed = rack.kubectl_with(&["apply", "-f", "-"], &text)?;
    ensure!(printed.contains("Warning: spec.priorityClassName"), "{printed}");
    rack.describes("pod", "warned", &["spec.priorityClassName"])?;
    delete(rack, "warned")
}

fn a_wrong_field_is_refused_with_its_path(rack: &Rack) -> Result<()> {
    let text = pod("wrong", "true", "  restartPolicee: Always\n");
    let path = tempfile::NamedTempFile::new()?;
    std::fs::write(path.path(), text)?;
    let file = path.path().display().to_string();
    let message = rack.kubectl_fails(&["apply", "-f", &file])?;
    ensure!(message.contains("unknown field \"spec.restartPolicee\""), "{message}");
    let wrong = [
        (pod("Wrong_Name", "true", ""), "Invalid value: \"Wrong_Name\""),
        (
            pod("wrong", "true", "").replace("image: minidc.local/web:1", "imagePullPolicy: Never"),
            "spec.containers[0].image",
        ),
        (
            pod("wrong", "true", "") + "    volumeMounts:\n    - name: none\n      mountPath: /x\n",
            "spec.containers[0].volumeMounts[0].name",
        ),
    ];
    for (text, expected) in wrong {
        std::fs::write(path.path(), text)?;
        let message = rack.kubectl_fails(&["apply", "-f", &file])?;
        ensure!(message.contains(expected), "{message}");
    }
    Ok(())
}

fn selectors_and_patches_work_as_in_kubernetes(rack: &Rack) -> Result<()> {
    for (name, tier) in [("one", "front"), ("two", "back"), ("three", "back")] {
        rack.kubectl(&["create", "configmap", name, "--from-literal=k=v"])?;
        rack.kubectl(&["label", "configmap", name, &format!("tier={tier}")])?;
    }
    let names = |selector: &str| {
        rack.kubectl(&[
            "get",
            "configmaps",
            "-l",
            selector,
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])
    };
    ensure!(names("tier=back")? == "three two");
    ensure!(names("tier in (front,back),tier!=front")? == "three two");
    ensure!(names("tier notin (back),tier")? == "one");
    ensure!(
        rack.kubectl(&["get", "configmaps", "--field-selector=metadata.name=one", "-o", "name"])?
            .trim()
            == "configmap/one"
    );
    for (kind, patch) in [
        ("merge", r#"{"data":{"k":null,"merged":"1"}}"#),
        ("strategic", r#"{"data":{"strategic":"2"}}"#),
        (
            "json",
            r#"[{"op":"test","path":"/data/merged","value":"1"},{"op":"add","path":"/data/json","value":"3"}]"#,
        ),
    ] {
        rack.kubectl(&["patch", "configmap", "one", "--type", kind, "-p", patch])?;
    }
    let data = rack.get(&["configmap", "one"])?["data"].clone();
    ensure!(
        data == serde_json::json!({"merged": "1", "strategic": "2", "json": "3"}),
        "{data}"
    );
    let stale = rack.kubectl(&["get", "configmap", "one", "-o", "yaml"])?;
    rack.kubectl(&["annotate", "configmap", "one", "touched=yes"])?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), stale)?;
    let message = rack.kubectl_fails(&["replace", "-f", &file.path().display().to_string()])?;
    ensure!(message.contains("the object has been modified"), "{message}");
    rack.kubectl(&["delete", "configmaps", "one", "two", "three"]).map(drop)
}

fn watching_pods_shows_each_change(rack: &Rack) -> Result<()> {
    // one that is there already shows when the watch has begun
    rack.kubectl_with(&["apply", "-f", "-"], &pod("there", "sleep 600", ""))?;
    let mut watch = rack
        .kubectl_command(&["get", "pods", "--watch", "--output-watch-events"])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(watch.stdout.take().context("no output")?);
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let reader = std::thread::spawn({
        let lines = Arc::clone(&lines);
        move || {
            for line in output.lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }
    });
    let said = |pod: &str| -> Vec<String> {
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains(pod)).cloned().collect()
    };
    let outcome = (|| {
        eventually(PATIENCE, "the watch has begun", || Ok(!said("there").is_empty()))?;
        rack.kubectl_with(&["apply", "-f", "-"], &pod("watched", "sleep 600", ""))?;
        rack.wait_for_phase("watched", "Running", PATIENCE)?;
        delete(rack, "watched")?;
        eventually(PATIENCE, "the end is shown", || {
            Ok(said("watched").iter().any(|line| line.starts_with("DELETED")))
        })
    })();
    watch.kill()?;
    watch.wait()?;
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    outcome?;
    delete(rack, "there")?;
    let seen = said("watched").join("\n");
    for expected in [
        "ADDED",
        "MODIFIED",
        "DELETED",
        "ContainerCreating",
        "Running",
        "Terminating",
    ] {
        ensure!(seen.contains(expected), "no {expected} in\n{seen}");
    }
    Ok(())
}

fn deleting_a_namespace_deletes_what_is_in_it(rack: &Rack) -> Result<()> {
    rack.kubectl(&["create", "namespace", "passing"])?;
    rack.kubectl(&["-n", "passing", "create", "configmap", "inside", "--from-literal=k=v"])?;
    rack.kubectl_with(&["-n", "passing", "apply", "-f", "-"], &pod("inside", "sleep 600", ""))?;
    rack.kubectl(&["delete", "namespace", "passing", "--timeout=120s"])?;
    let message = rack.kubectl_fails(&["get", "namespace", "passing"])?;
    ensure!(message.contains("NotFound"), "{message}");
    ensure!(
        rack.kubectl(&[
            "get",
            "pods",
            "-A",
            "--field-selector=metadata.namespace=passing",
            "-o",
            "name"
        ])?
        .is_empty()
    );
    let refused = rack.kubectl_fails(&["-n", "passing", "create", "configmap", "late", "--from-literal=k=v"])?;
    ensure!(refused.contains("namespaces \"passing\" not found"), "{refused}");
    rack.kubectl(&["get", "namespace", "default"])
        .map(drop)
        .context("default is still there")
}
