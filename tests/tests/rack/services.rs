//! Services: one address for many pods, from wherever one asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{PATIENCE, Rack, eventually, manifest};
use serde_json::{Value, json};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_cluster_ip_spreads_over_all_pods_from_every_node",
        a_cluster_ip_spreads_over_all_pods_from_every_node,
    ),
    (
        "a_pod_reaches_a_service_by_its_short_name",
        a_pod_reaches_a_service_by_its_short_name,
    ),
    (
        "a_node_port_answers_on_every_node_from_outside",
        a_node_port_answers_on_every_node_from_outside,
    ),
    (
        "external_traffic_policy_local_keeps_to_the_node",
        external_traffic_policy_local_keeps_to_the_node,
    ),
    (
        "a_service_without_endpoints_refuses_at_once",
        a_service_without_endpoints_refuses_at_once,
    ),
    (
        "an_address_that_no_service_has_is_refused_at_once",
        an_address_that_no_service_has_is_refused_at_once,
    ),
    (
        "session_affinity_keeps_a_client_at_one_pod",
        session_affinity_keeps_a_client_at_one_pod,
    ),
    (
        "a_pod_reaches_itself_through_its_service",
        a_pod_reaches_itself_through_its_service,
    ),
    ("external_ips_lead_to_the_service", external_ips_lead_to_the_service),
    (
        "a_selectorless_service_uses_its_own_endpoint_slices",
        a_selectorless_service_uses_its_own_endpoint_slices,
    ),
    (
        "endpoints_written_by_hand_are_mirrored",
        endpoints_written_by_hand_are_mirrored,
    ),
    (
        "no_cluster_ip_and_no_node_port_is_given_twice",
        no_cluster_ip_and_no_node_port_is_given_twice,
    ),
    (
        "the_api_is_a_service_named_kubernetes",
        the_api_is_a_service_named_kubernetes,
    ),
    (
        "a_pod_that_is_not_ready_gets_no_connections",
        a_pod_that_is_not_ready_gets_no_connections,
    ),
    (
        "a_rolling_update_under_load_loses_no_request",
        a_rolling_update_under_load_loses_no_request,
    ),
    (
        "a_restarted_agent_leaves_no_gap_and_foreign_rules_stay",
        a_restarted_agent_leaves_no_gap_and_foreign_rules_stay,
    ),
    (
        "rules_that_someone_flushed_come_back",
        rules_that_someone_flushed_come_back,
    ),
    (
        "a_killed_backend_and_an_unplugged_node_cost_few_requests",
        a_killed_backend_and_an_unplugged_node_cost_few_requests,
    ),
];

/// Runs after all that use the pods of this file.
pub(crate) const LAST: &[crate::Promise] = &[(
    "endpoint_slices_follow_a_scale_down_to_nothing",
    endpoint_slices_follow_a_scale_down_to_nothing,
)];

const NODES: [&str; 3] = ["pi-1", "pi-2", "pi-3"];
/// The manifest is applied and three pods are ready and in the slices.
pub(crate) fn apply(rack: &Rack) -> Result<()> {
    // a pod for each node
    rack.await_nodes()?;
    rack.kubectl(&["apply", "-f", &manifest("services.yaml")])?;
    rack.kubectl(&["scale", "deployment/echo", "--replicas=3"])?;
    rack.kubectl(&["rollout", "status", "deployment/echo", "--timeout=120s"])?;
    eventually(
        PATIENCE,
        "three endpoints of echo",
        || Ok(endpoints(rack, "echo")? == 3),
    )?;
    Ok(())
}

/// Number of endpoints of a Service that take new connections.
pub(crate) fn endpoints(rack: &Rack, service: &str) -> Result<usize> {
    let slices = rack.get(&["endpointslices", "-l", &format!("kubernetes.io/service-name={service}")])?;
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    Ok(slices
        .iter()
        .filter_map(|slice| slice["endpoints"].as_array())
        .flatten()
        .filter(|endpoint| endpoint["conditions"]["ready"] != json!(false))
        .count())
}

pub(crate) fn cluster_ip(rack: &Rack, service: &str) -> Result<String> {
    rack.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
}

fn node_port(rack: &Rack, service: &str) -> Result<u16> {
    let port = rack.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.ports[0].nodePort}"])?;
    port.parse()
        .with_context(|| format!("{port:?} as node port of {service}"))
}

fn node_address(rack: &Rack, node: &str) -> Result<String> {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    Ok(rack.kubectl(&["get", "node", node, "-o", path])?.trim().to_owned())
}

/// `curl` inside a virtual Pi.
fn curl(rack: &Rack, node: &str, url: &str) -> Result<String> {
    Ok(rack
        .in_node(node, &["curl", "-sS", "--max-time", "5", url])?
        .trim()
        .to_owned())
}

/// Who answered each of `count` requests.
fn answers(rack: &Rack, node: &str, url: &str, count: usize) -> Result<Vec<String>> {
    // one process for all: starting curl costs more than its request
    let script = format!("for i in $(seq {count}); do curl -sS --max-time 5 {url} || exit 1; done");
    let printed = rack.in_node(node, &["sh", "-c", &script])?;
    Ok(printed.lines().map(str::to_owned).collect())
}

fn pod_names(rack: &Rack) -> Result<BTreeSet<String>> {
    Ok(rack.ready_pods("app=echo")?.into_iter().map(|pod| pod.name).collect())
}

fn a_cluster_ip_spreads_over_all_pods_from_every_node(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let url = format!("http://{}/", cluster_ip(rack, "echo")?);
    let pods = pod_names(rack)?;
    for node in NODES {
        // a pod that is never chosen in 60 tries: (2/3)^60, one in 37 thousand million
        eventually(PATIENCE, format!("{node} reaches all of {pods:?}"), || {
            Ok(answers(rack, node, &url, 60)?.into_iter().collect::<BTreeSet<_>>() == pods)
        })?;
    }
    Ok(())
}

fn a_pod_reaches_a_service_by_its_short_name(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pods = pod_names(rack)?;
    for pod in &pods {
        for url in [
            "http://echo/",
            "http://echo.default/",
            "http://echo.default.svc.cluster.local/",
        ] {
            eventually(PATIENCE, format!("{pod} reaches {url}"), || {
                let answer = rack.kubectl(&["exec", pod, "--", "wget", "-q", "-O", "-", url])?;
                ensure!(pods.contains(answer.trim()), "{url} answered {answer:?}");
                Ok(true)
            })?;
        }
    }
    Ok(())
}

fn a_node_port_answers_on_every_node_from_outside(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let (port, pods) = (node_port(rack, "echo")?, pod_names(rack)?);
    ensure!((30000..=32767).contains(&port), "node port {port}");
    for node in NODES {
        let address: SocketAddr = format!("{}:{port}", node_address(rack, node)?).parse()?;
        let mut seen = BTreeSet::new();
        eventually(PATIENCE, format!("{address} leads to all pods"), || {
            seen.insert(get(address)?);
            Ok(seen == pods)
        })?;
    }
    // the node itself reaches it too
    let own = node_address(rack, "pi-2")?;
    let answer = curl(rack, "pi-2", &format!("http://{own}:{port}/"))?;
    ensure!(pods.contains(&answer), "{answer:?}");
    Ok(())
}

fn external_traffic_policy_local_keeps_to_the_node(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let port = node_port(rack, "echo")?;
    let patch = |policy: &str| {
        let patch = format!(r#"{{"spec":{{"externalTrafficPolicy":"{policy}"}}}}"#);
        rack.kubectl(&["patch", "service", "echo", "-p", &patch])
    };
    patch("Local")?;
    let outcome: Result<()> = (|| {
        let mut by_node: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in rack.ready_pods("app=echo")? {
            by_node.entry(pod.node).or_default().insert(pod.name);
        }
        for (node, own) in by_node {
            let address: SocketAddr = format!("{}:{port}", node_address(rack, &node)?).parse()?;
            let mut in_a_row = 0;
            eventually(PATIENCE, format!("{address} leads to {own:?} only"), || {
                let led = get(address);
                in_a_row = if led.as_ref().is_ok_and(|name| own.contains(name)) {
                    in_a_row + 1
                } else {
                    0
                };
                led.map(|_| in_a_row == 20)
            })?;
        }
        Ok(())
    })();
    patch("Cluster")?;
    outcome
}

fn a_service_without_endpoints_refuses_at_once(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let address = cluster_ip(rack, "nobody")?;
    for node in NODES {
        refused(rack, node, &format!("http://{address}/"))?;
    }
    // and to a pod
    let pod = pod_names(rack)?.pop_first().context("no pod")?;
    let said = rack.kubectl_fails(&[
        "exec",
        &pod,
        "--",
        "wget",
        "-q",
        "-O",
        "-",
        &format!("http://{address}/"),
    ])?;
    ensure!(
        said.contains("can't connect to remote host") && said.contains("refused"),
        "{said}"
    );
    Ok(())
}

/// curl ends with 7 (refused), and not with 28 (timeout).
fn refused(rack: &Rack, node: &str, url: &str) -> Result<()> {
    let script = format!("curl -s --max-time 10 -o /dev/null {url}; echo $?");
    eventually(PATIENCE, format!("{node}: {url} is refused"), || {
        let code = rack.in_node(node, &["sh", "-c", &script])?;
        ensure!(code.trim() == "7", "curl {url} on {node} ended with {code}");
        Ok(true)
    })?;
    Ok(())
}

fn an_address_that_no_service_has_is_refused_at_once(rack: &Rack) -> Result<()> {
    let known = cluster_ip(rack, "kubernetes")?;
    let unused = known.rsplit_once('.').context("no address")?.0.to_owned() + ".77";
    refused(rack, "pi-2", &format!("http://{unused}/"))
}

fn session_affinity_keeps_a_client_at_one_pod(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let url = format!("http://{}/", cluster_ip(rack, "echo-sticky")?);
    curl(rack, "pi-2", &url)?;
    let seen: BTreeSet<String> = answers(rack, "pi-2", &url, 30)?.into_iter().collect();
    ensure!(seen.len() == 1, "one client got {seen:?}");
    Ok(())
}

fn a_pod_reaches_itself_through_its_service(rack: &Rack) -> Result<()> {
    apply(rack)?;
    rack.kubectl(&["scale", "deployment/echo", "--replicas=1"])?;
    eventually(PATIENCE, "one endpoint of echo", || {
        Ok(endpoints(rack, "echo")? == 1 && rack.ready_pods("app=echo")?.len() == 1)
    })?;
    let pod = pod_names(rack)?.pop_first().context("no pod")?;
    // the node's rules follow the slice within moments
    eventually(PATIENCE, "the pod reaches itself", || {
        let answer = rack.kubectl(&["exec", &pod, "--", "wget", "-q", "-O", "-", "http://echo/"])?;
        Ok(answer.trim() == pod)
    })?;
    apply(rack)
}

fn external_ips_lead_to_the_service(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo-outside"}, "spec": {
        "selector": {"app": "echo"}, "externalIPs": ["192.0.2.80"], "ports": [{"port": 8088, "targetPort": "http"}]}});
    rack.kubectl_with(&["apply", "-f", "-"], &service.to_string())?;
    let pods = pod_names(rack)?;
    let outcome = eventually(PATIENCE, "the external address answers", || {
        Ok(pods.contains(&curl(rack, "pi-3", "http://192.0.2.80:8088/")?))
    });
    rack.kubectl(&["delete", "service", "echo-outside"])?;
    outcome.map(drop)
}

/// A Service without a selector; its endpoints are made by hand.
fn selectorless(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn a_selectorless_service_uses_its_own_endpoint_slices(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pod = rack.ready_pods("app=echo")?.pop().context("no pod")?;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "by-hand-1",
        "labels": {"kubernetes.io/service-name": "by-hand"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [pod.ip]}]});
    for object in [selectorless("by-hand"), slice] {
        rack.kubectl_with(&["apply", "-f", "-"], &object.to_string())?;
    }
    let url = format!("http://{}/", cluster_ip(rack, "by-hand")?);
    let outcome = eventually(PATIENCE, "the slice is used", || {
        Ok(curl(rack, "pi-1", &url)? == pod.name)
    });
    rack.kubectl(&["delete", "service/by-hand", "endpointslice/by-hand-1"])?;
    outcome.map(drop)
}

fn endpoints_written_by_hand_are_mirrored(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pod = rack.ready_pods("app=echo")?.pop().context("no pod")?;
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "mirrored"}, "subsets": [
        {"addresses": [{"ip": pod.ip}], "ports": [{"name": "http", "port": 8080}]}]});
    for object in [selectorless("mirrored"), endpoints] {
        rack.kubectl_with(&["apply", "-f", "-"], &object.to_string())?;
    }
    let url = format!("http://{}/", cluster_ip(rack, "mirrored")?);
    let outcome = eventually(PATIENCE, "the mirrored slice is used", || {
        Ok(curl(rack, "pi-2", &url)? == pod.name)
    });
    rack.kubectl(&["delete", "service/mirrored", "--ignore-not-found"])?;
    rack.kubectl(&["delete", "endpoints/mirrored", "--ignore-not-found"])?;
    outcome?;
    eventually(PATIENCE, "no mirrored slice is left", || {
        let left = rack.kubectl(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=mirrored",
            "-o",
            "name",
        ])?;
        Ok(left.is_empty())
    })?;
    Ok(())
}

fn no_cluster_ip_and_no_node_port_is_given_twice(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let (address, port) = (cluster_ip(rack, "echo")?, node_port(rack, "echo")?);
    let ask = |spec: Value| {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "greedy"}, "spec": spec});
        rack.kubectl_with(&["create", "-f", "-"], &service.to_string())
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default()
    };
    let said = ask(json!({"clusterIP": address, "ports": [{"port": 80}]}));
    ensure!(said.contains("provided IP is already allocated"), "{said}");
    let said = ask(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    ensure!(said.contains("provided port is already allocated"), "{said}");
    // freed with the Service that had it
    rack.kubectl(&["delete", "service", "nobody"])?;
    let free = cluster_ip(rack, "echo-sticky")?;
    rack.kubectl(&["delete", "service", "echo-sticky"])?;
    let said = ask(json!({"clusterIP": free, "ports": [{"port": 80}]}));
    ensure!(said.is_empty(), "{said}");
    rack.kubectl(&["delete", "service", "greedy"])?;
    apply(rack)
}

fn the_api_is_a_service_named_kubernetes(rack: &Rack) -> Result<()> {
    let address = cluster_ip(rack, "kubernetes")?;
    for node in NODES {
        eventually(PATIENCE, format!("{node} reaches the API by its cluster IP"), || {
            let url = format!("https://{address}/version");
            let said = rack.in_node(node, &["curl", "-sSk", "--max-time", "5", &url])?;
            Ok(said.contains("gitVersion") || said.contains("Forbidden") || said.contains("Unauthorized"))
        })?;
    }
    Ok(())
}

fn a_pod_that_is_not_ready_gets_no_connections(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pods = pod_names(rack)?;
    let sick = pods.first().context("no pod")?;
    rack.kubectl(&["exec", sick, "--", "mv", "/www/about", "/www/away"])?;
    eventually(PATIENCE, format!("{sick} is not an endpoint"), || {
        Ok(endpoints(rack, "echo")? == 2)
    })?;
    let url = format!("http://{}/", cluster_ip(rack, "echo")?);
    let without = || Ok(!answers(rack, "pi-1", &url, 40)?.contains(sick));
    eventually(PATIENCE, format!("no connection for {sick}"), without)?;
    ensure!(without()?, "{sick} was chosen again");
    rack.describes("pod", sick, &["Unhealthy", "Readiness probe failed"])?;
    rack.kubectl(&["exec", sick, "--", "mv", "/www/away", "/www/about"])?;
    eventually(
        PATIENCE,
        format!("{sick} is back"),
        || Ok(endpoints(rack, "echo")? == 3),
    )?;
    Ok(())
}

/// `GET /` over a connection of its own; the body without white space around it.
fn get(address: SocketAddr) -> Result<String> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("read from {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.contains(" 200 "), "{address} said {head}");
    Ok(body.trim().to_owned())
}

/// Requests that went well, and what became of the others.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Two clients, some hundred requests per second at most; some were answered already.
    fn start(address: SocketAddr) -> Result<Self> {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = || {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            std::thread::spawn(move || {
                let mut bad = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match get(address) {
                        Ok(_) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => bad.push(format!("after {:?}: {error:#}", began.elapsed())),
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                bad
            })
        };
        let load = Self {
            clients: vec![client(), client()],
            stop,
            good,
        };
        load.go_on()?;
        Ok(load)
    }

    /// Waits until some more were answered.
    fn go_on(&self) -> Result<()> {
        let before = self.good.load(Ordering::Relaxed);
        let more = || Ok(self.good.load(Ordering::Relaxed) > before + 20);
        eventually(PATIENCE, "more answers", more).map(drop)
    }

    fn end(self) -> Result<(usize, Vec<String>)> {
        let outcome = self.go_on();
        self.stop.store(true, Ordering::Relaxed);
        let mut bad = Vec::new();
        for client in self.clients {
            bad.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
        }
        outcome.with_context(|| format!("failed: {bad:#?}"))?;
        Ok((self.good.load(Ordering::Relaxed), bad))
    }
}

fn address_of_node_port(rack: &Rack, node: &str) -> Result<SocketAddr> {
    Ok(format!("{}:{}", node_address(rack, node)?, node_port(rack, "echo")?).parse()?)
}

/// Proves that `attempt` loses no request of those that `node`'s node port is asked meanwhile. One attempt of three must lose
/// none: a node that others' work on the same machine holds up hears too late that a pod is about to go.
fn loses_no_request(rack: &Rack, node: &str, attempt: impl Fn() -> Result<()>) -> Result<()> {
    let mut lost = Vec::new();
    while lost.len() < 3 {
        apply(rack)?;
        let load = Load::start(address_of_node_port(rack, node)?)?;
        let outcome = attempt();
        let (good, bad) = load.end()?;
        outcome?;
        println!("under load: {good} requests answered, {} failed", bad.len());
        if bad.is_empty() {
            return Ok(());
        }
        lost.push(bad);
    }
    bail!("requests were lost three times: {lost:#?}")
}

fn a_rolling_update_under_load_loses_no_request(rack: &Rack) -> Result<()> {
    loses_no_request(rack, "pi-1", || {
        rack.kubectl(&["rollout", "restart", "deployment/echo"])?;
        rack.kubectl(&["rollout", "status", "deployment/echo", "--timeout=120s"])
            .map(drop)
    })
}

fn a_restarted_agent_leaves_no_gap_and_foreign_rules_stay(rack: &Rack) -> Result<()> {
    let foreign = "add table ip admins; add chain ip admins own { type filter hook input priority 5; }; add rule ip admins own counter";
    rack.in_node("pi-2", &["nft", foreign])?;
    let outcome = loses_no_request(rack, "pi-2", || {
        let before = rack.in_node("pi-2", &["pgrep", "-x", "minidc"])?;
        rack.kill_minidc("pi-2")?;
        eventually(PATIENCE, "minidc runs again on pi-2", || {
            let now = rack.in_node("pi-2", &["pgrep", "-x", "minidc"])?;
            Ok(!now.trim().is_empty() && now != before)
        })?;
        // the new agent has taken over once it follows a change
        rack.kubectl(&["scale", "deployment/echo", "--replicas=2"])?;
        eventually(PATIENCE, "two endpoints", || Ok(endpoints(rack, "echo")? == 2))?;
        let left = pod_names(rack)?;
        let url = format!("http://{}/", cluster_ip(rack, "echo")?);
        eventually(PATIENCE, "pi-2 has followed", || {
            Ok(answers(rack, "pi-2", &url, 40)?.iter().all(|name| left.contains(name)))
        })?;
        Ok(())
    });
    let kept = rack.in_node("pi-2", &["nft", "list", "table", "ip", "admins"])?;
    rack.in_node("pi-2", &["nft", "delete table ip admins"])?;
    outcome?;
    ensure!(kept.contains("counter"), "{kept}");
    apply(rack)
}

fn rules_that_someone_flushed_come_back(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let url = format!("http://{}/", cluster_ip(rack, "echo")?);
    rack.in_node("pi-3", &["nft", "flush", "ruleset"])?;
    eventually(PATIENCE, "pi-3 has its rules back", || {
        Ok(!curl(rack, "pi-3", &url)?.is_empty())
    })?;
    Ok(())
}

fn a_killed_backend_and_an_unplugged_node_cost_few_requests(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let on_third = rack.ready_pods("app=echo")?.into_iter().find(|pod| pod.node == "pi-3");
    ensure!(on_third.is_some(), "no pod on pi-3");
    let load = Load::start(address_of_node_port(rack, "pi-1")?)?;
    let victim = rack.ready_pods("app=echo")?.into_iter().find(|pod| pod.node == "pi-2");
    if let Some(victim) = victim {
        rack.kubectl(&["delete", "pod", &victim.name, "--grace-period=0", "--force"])?;
        eventually(PATIENCE, "a replacement", || Ok(endpoints(rack, "echo")? == 3))?;
    }
    let (good, bad) = load.end()?;
    println!(
        "a backend killed under load: {good} requests answered, {} failed",
        bad.len()
    );
    ensure!(good > bad.len(), "{good} answered; failed: {bad:#?}");

    let load = Load::start(address_of_node_port(rack, "pi-1")?)?;
    rack.rack("unplug", &["pi-3"])?;
    let replaced = eventually(PATIENCE, "three endpoints without pi-3", || {
        let pods = rack.ready_pods("app=echo")?;
        Ok(pods.len() == 3 && pods.iter().all(|pod| pod.node != "pi-3") && endpoints(rack, "echo")? == 3)
    });
    let ended = load.end();
    rack.rack("plug", &["pi-3"])?;
    let (good, bad) = ended?;
    println!(
        "a node unplugged under load: {good} requests answered, {} failed",
        bad.len()
    );
    replaced?;
    ensure!(good > bad.len(), "{good} answered; failed: {bad:#?}");
    rack.await_nodes()?;
    // back to a pod on each node, for the tests that follow
    rack.kubectl(&["rollout", "restart", "deployment/echo"])?;
    apply(rack)
}

fn endpoint_slices_follow_a_scale_down_to_nothing(rack: &Rack) -> Result<()> {
    apply(rack)?;
    rack.kubectl(&["scale", "deployment/echo", "--replicas=0"])?;
    eventually(PATIENCE, "no endpoint of echo", || Ok(endpoints(rack, "echo")? == 0))?;
    refused(rack, "pi-2", &format!("http://{}/", cluster_ip(rack, "echo")?))?;
    rack.kubectl(&["delete", "-f", &manifest("services.yaml"), "--timeout=120s"])?;
    eventually(PATIENCE, "no slice of echo is left", || {
        let left = rack.kubectl(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=echo",
            "-o",
            "name",
        ])?;
        Ok(left.is_empty())
    })?;
    Ok(())
}
