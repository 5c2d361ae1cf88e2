//! Logs and exec.

use minidc_api::streams::{Channel, LogQuery};
use serde_json::{Value, json};

use crate::client::{Exec, log_query, logs, run};
use crate::cluster::{Cluster, LIMIT};
use crate::node::inside;
use crate::{SERVE, script, with_shell};

#[test]
fn command_gets_input_and_tells_its_exit_code() {
    inside(
        "streams::command_gets_input_and_tells_its_exit_code",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let mut web = script("web", SERVE);
            web["env"] = json!([{"name": "COLOUR", "value": "red"}]);
            cluster.pod("web", json!({"hostname": "shop", "containers": [web]}));
            cluster.running("web").await;
            let handle = &running.handle;
            assert_eq!(
                run(handle, "web", "web", &["sh", "-c", "echo $COLOUR $(hostname)"]).await,
                "red shop\n"
            );

            // Input, much of it, and its end: only then does cat end.
            let mut exec = Exec::start(handle, "web", "web", &["cat"], false).await;
            let long = "0123456789".repeat(1_000);
            exec.send(Channel::Stdin, long.as_bytes()).await;
            exec.close_stdin().await;
            let ended = exec.end().await;
            assert_eq!(ended.stdout, long);
            assert_eq!(ended.status["status"], "Success");

            let mut exec = Exec::start(
                handle,
                "web",
                "web",
                &["sh", "-c", "echo out; echo err >&2; exit 3"],
                false,
            )
            .await;
            exec.close_stdin().await;
            let ended = exec.end().await;
            assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
            assert_eq!(ended.status["reason"], "NonZeroExitCode");
            assert_eq!(
                ended.status["details"]["causes"],
                json!([{"reason": "ExitCode", "message": "3"}])
            );

            let exec = Exec::start(handle, "web", "web", &["nonsense"], false).await;
            let ended = exec.end().await;
            let message = ended.status["message"].as_str().unwrap();
            assert!(
                message.starts_with("Internal error occurred: error executing command in container: "),
                "{message}"
            );
            assert!(message.contains("executable file not found"), "{message}");
            assert_eq!(
                std::fs::read_dir("/run/minidc/exec").unwrap().count(),
                0,
                "no FIFO is left"
            );
            running.stop().await;
        },
    );
}

#[test]
fn terminal_has_a_size_and_ends_with_its_client() {
    inside(
        "streams::terminal_has_a_size_and_ends_with_its_client",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            cluster.pod("web", json!({"containers": [script("web", SERVE)]}));
            cluster.running("web").await;
            let mut exec = Exec::start(&running.handle, "web", "web", &["sh"], true).await;
            exec.send(Channel::Resize, br#"{"Width":132,"Height":43}"#).await;
            exec.send(Channel::Stdin, b"until stty size | grep 132; do sleep 0.1; done\n")
                .await;
            let mut seen = String::new();
            while !seen.contains("43 132") {
                let (_, payload) = exec.frame().await.expect("the shell lives");
                seen.push_str(&String::from_utf8_lossy(&payload));
            }
            exec.send(Channel::Stdin, b"echo $$ >/tmp/pid; sleep 1000 &\nsleep 1000\n")
                .await;
            while !seen.contains("sleep 1000\r\n") {
                let (_, payload) = exec.frame().await.expect("the shell lives");
                seen.push_str(&String::from_utf8_lossy(&payload));
            }
            drop(exec);
            let alive = || async {
                let test = "kill -0 $(cat /tmp/pid) 2>/dev/null && echo alive; true";
                run(&running.handle, "web", "web", &["sh", "-c", test]).await == "alive\n"
            };
            let ended = async { while alive().await {} };
            tokio::time::timeout(LIMIT, ended)
                .await
                .expect("the shell ends with its client");
            let gone = async {
                while std::fs::read_dir("/run/minidc/exec").unwrap().count() > 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(LIMIT, gone).await.expect("its FIFOs go");
            running.stop().await;
        },
    );
}

#[test]
fn logs_can_be_followed_to_the_end_of_the_container() {
    inside(
        "streams::logs_can_be_followed_to_the_end_of_the_container",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            cluster.pod("count", json!({"restartPolicy": "Never", "containers": [script("c", "for n in 1 2 3 4 5; do echo line $n; sleep 0.2; done")]}));
            cluster
                .wait_pod("count", |pod| {
                    !pod["status"]["containerStatuses"][0]["containerID"].is_null()
                })
                .await;
            let all = "line 1\nline 2\nline 3\nline 4\nline 5\n";
            let follow = LogQuery {
                follow: true,
                ..log_query("count", "c")
            };
            assert_eq!(logs(&running.handle, follow).await.unwrap(), all);
            cluster
                .wait_pod("count", |pod| pod["status"]["phase"] == "Succeeded")
                .await;
            let tail = LogQuery {
                tail_lines: Some(2),
                ..log_query("count", "c")
            };
            assert_eq!(logs(&running.handle, tail).await.unwrap(), "line 4\nline 5\n");
            let stamped = LogQuery {
                timestamps: true,
                tail_lines: Some(1),
                ..log_query("count", "c")
            };
            let stamped = logs(&running.handle, stamped).await.unwrap();
            assert!(stamped.ends_with(" line 5\n") && stamped.starts_with("20"), "{stamped}");
            let refused = logs(
                &running.handle,
                LogQuery {
                    previous: true,
                    ..log_query("count", "c")
                },
            )
            .await
            .unwrap_err();
            assert_eq!(
                refused,
                (
                    400,
                    "previous terminated container \"c\" in pod \"count\" not found".to_owned()
                )
            );
            running.stop().await;
        },
    );
}

#[test]
fn previous_log_is_that_of_the_instance_before() {
    inside(
        "streams::previous_log_is_that_of_the_instance_before",
        |node| async move {
            let cluster = Cluster::new();
            with_shell(&cluster);
            let running = cluster.start(&node);
            let text =
                "if [ -e /work/again ]; then echo second; sleep 1000; else echo first; touch /work/again; exit 1; fi";
            let mut container = script("c", &format!("trap 'exit 0' TERM; {text}"));
            container["command"] = json!(["/bin/busybox", "sh", "-c"]);
            container["args"][0] = json!(text.replace("touch /work/again", "echo >/work/again"));
            container["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
            cluster.pod(
                "two",
                json!({"containers": [container], "volumes": [{"name": "work", "emptyDir": {}}]}),
            );
            let second = |pod: &Value| {
                let status = &pod["status"]["containerStatuses"][0];
                status["restartCount"] == 1 && status["ready"] == true
            };
            cluster.wait_pod("two", second).await;
            let previous = LogQuery {
                previous: true,
                ..log_query("two", "c")
            };
            assert_eq!(logs(&running.handle, previous).await.unwrap(), "first\n");
            let present = LogQuery {
                follow: true,
                limit_bytes: Some(7),
                ..log_query("two", "c")
            };
            assert_eq!(logs(&running.handle, present).await.unwrap(), "second\n");
            running.stop().await;
        },
    );
}

#[test]
fn long_log_is_rotated_while_it_is_written() {
    inside("streams::long_log_is_rotated_while_it_is_written", |node| async move {
        let cluster = Cluster::new();
        with_shell(&cluster);
        let running = cluster.start(&node);
        // Eleven mebibytes at once, then a line now and then.
        let line = "x".repeat(1_000);
        let text = format!(
            "trap 'exit 0' TERM; n=0; while [ $n -lt 11000 ]; do echo {line}; n=$((n+1)); done; while true; do echo later; sleep 0.2; done"
        );
        cluster.pod("chatty", json!({"containers": [script("c", &text)]}));
        cluster.running("chatty").await;
        let directory = node.path("logs").join("default_chatty_uid-1").join("c");
        let rotated = async {
            let count = || std::fs::read_dir(&directory).into_iter().flatten().count();
            let present = || std::fs::metadata(directory.join("0.log")).map_or(u64::MAX, |found| found.len());
            while count() != 2 || present() > 1 << 20 {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LIMIT, rotated).await.expect("the log is rotated");
        // what is left of the many lines may come after the rotation
        let last = || LogQuery {
            tail_lines: Some(1),
            ..log_query("chatty", "c")
        };
        let calm = async { while logs(&running.handle, last()).await.unwrap() != "later\n" {} };
        tokio::time::timeout(LIMIT, calm).await.expect("all is written");
        let query = LogQuery {
            follow: true,
            limit_bytes: Some(60),
            ..last()
        };
        assert_eq!(logs(&running.handle, query).await.unwrap(), "later\n".repeat(10));
        running.stop().await;
    });
}
