//! Names: the Kubernetes DNS specification, record kind by record kind, asked with dig of the cluster's DNS address on a
//! node; user zones; what a pod sees.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use minidc_tests::{PATIENCE, Rack, eventually};
use serde_json::json;

use crate::services::{apply, cluster_ip};

pub(crate) const ALL: &[crate::Promise] = &[
    ("dns_says_its_schema_version", dns_says_its_schema_version),
    (
        "a_record_of_a_service_is_its_cluster_ip",
        a_record_of_a_service_is_its_cluster_ip,
    ),
    (
        "srv_records_of_a_service_name_its_ports",
        srv_records_of_a_service_name_its_ports,
    ),
    (
        "ptr_record_of_a_cluster_ip_is_its_service",
        ptr_record_of_a_cluster_ip_is_its_service,
    ),
    (
        "a_records_of_a_headless_service_are_its_ready_pods",
        a_records_of_a_headless_service_are_its_ready_pods,
    ),
    (
        "srv_records_of_a_headless_service_name_each_pod",
        srv_records_of_a_headless_service_name_each_pod,
    ),
    (
        "a_pod_with_host_name_and_subdomain_has_a_name_and_a_ptr_record",
        a_pod_with_host_name_and_subdomain_has_a_name_and_a_ptr_record,
    ),
    ("cname_record_of_an_external_name", cname_record_of_an_external_name),
    ("a_record_of_a_pod_address", a_record_of_a_pod_address),
    ("names_are_found_in_any_case", names_are_found_in_any_case),
    ("nxdomain_and_nodata_are_told_apart", nxdomain_and_nodata_are_told_apart),
    ("tcp_and_edns_work", tcp_and_edns_work),
    (
        "local_names_are_never_asked_outside",
        local_names_are_never_asked_outside,
    ),
    (
        "a_teams_zone_moves_in_unchanged_and_a_bad_one_is_reported",
        a_teams_zone_moves_in_unchanged_and_a_bad_one_is_reported,
    ),
    ("pods_get_dns_by_resolv_conf", pods_get_dns_by_resolv_conf),
    (
        "dns_policy_and_dns_config_are_honoured",
        dns_policy_and_dns_config_are_honoured,
    ),
    (
        "names_outside_are_asked_of_the_nodes_resolvers_and_known_without_them",
        names_outside_are_asked_of_the_nodes_resolvers_and_known_without_them,
    ),
    (
        "names_go_on_without_the_control_plane",
        names_go_on_without_the_control_plane,
    ),
];

/// Address of the cluster's DNS: the tenth of the range whose first is the API's.
fn server(rack: &Rack) -> Result<String> {
    let first = cluster_ip(rack, "kubernetes")?;
    Ok(first.strip_suffix('1').context("the API's cluster IP")?.to_owned() + "10")
}

fn dig(rack: &Rack, arguments: &str) -> Result<String> {
    let server = server(rack)?;
    let command = format!("dig @{server} +time=5 +tries=3 {arguments}");
    Ok(rack.in_node("pi-2", &["sh", "-c", &command])?.trim().to_owned())
}

/// The lines of a short answer.
fn short(rack: &Rack, arguments: &str) -> Result<BTreeSet<String>> {
    Ok(dig(rack, &format!("+short {arguments}"))?
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Waits for an answer: a node follows a change within moments, not at once.
fn becomes(rack: &Rack, arguments: &str, wanted: &BTreeSet<String>) -> Result<()> {
    let mut last = BTreeSet::new();
    eventually(PATIENCE, format!("dig {arguments} says {wanted:?}"), || {
        last = short(rack, arguments)?;
        ensure!(last == *wanted, "it says {last:?}");
        Ok(true)
    })?;
    Ok(())
}

fn set<T: Into<String>>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(Into::into).collect()
}

fn dns_says_its_schema_version(rack: &Rack) -> Result<()> {
    becomes(rack, "TXT dns-version.cluster.local", &set(["\"1.1.0\""]))
}

fn a_record_of_a_service_is_its_cluster_ip(rack: &Rack) -> Result<()> {
    apply(rack)?;
    becomes(
        rack,
        "A echo.default.svc.cluster.local",
        &set([cluster_ip(rack, "echo")?]),
    )?;
    // a node asks over the cable's address too, and gets the same from itself
    let server = server(rack)?;
    for node in ["pi-1", "pi-3"] {
        eventually(PATIENCE, format!("{node} knows the name"), || {
            let question = ["dig", &format!("@{server}"), "+short", "echo.default.svc.cluster.local"];
            let said = rack.in_node(node, &question)?;
            ensure!(said.trim() == cluster_ip(rack, "echo")?, "{said}");
            Ok(true)
        })?;
    }
    Ok(())
}

fn srv_records_of_a_service_name_its_ports(rack: &Rack) -> Result<()> {
    apply(rack)?;
    eventually(PATIENCE, "one SRV record", || {
        let said = short(rack, "SRV _http._tcp.echo.default.svc.cluster.local")?;
        let srv = said.first().context("no SRV record")?;
        ensure!(
            said.len() == 1 && srv.ends_with(" 80 echo.default.svc.cluster.local."),
            "{said:?}"
        );
        Ok(true)
    })
    .map(drop)
}

fn reverse(address: &str) -> String {
    let mut parts: Vec<&str> = address.split('.').collect();
    parts.reverse();
    parts.join(".") + ".in-addr.arpa"
}

fn ptr_record_of_a_cluster_ip_is_its_service(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let question = format!("PTR {}", reverse(&cluster_ip(rack, "echo")?));
    becomes(rack, &question, &set(["echo.default.svc.cluster.local."]))
}

fn a_records_of_a_headless_service_are_its_ready_pods(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pods = rack.ready_pods("app=echo")?;
    becomes(
        rack,
        "A echo-direct.default.svc.cluster.local",
        &set(pods.iter().map(|pod| pod.ip.clone())),
    )?;
    let sick = pods.first().context("no pod")?;
    rack.kubectl(&["exec", &sick.name, "--", "mv", "/www/about", "/www/away"])?;
    let outcome = becomes(
        rack,
        "A echo-direct.default.svc.cluster.local",
        &set(pods[1..].iter().map(|pod| pod.ip.clone())),
    );
    rack.kubectl(&["exec", &sick.name, "--", "mv", "/www/away", "/www/about"])?;
    outcome?;
    apply(rack)
}

fn srv_records_of_a_headless_service_name_each_pod(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pods = rack.ready_pods("app=echo")?;
    let mut addresses = BTreeSet::new();
    eventually(PATIENCE, "an SRV record per pod", || {
        let said = short(rack, "SRV _http._tcp.echo-direct.default.svc.cluster.local")?;
        addresses.clear();
        for srv in &said {
            let fields: Vec<&str> = srv.split_whitespace().collect();
            ensure!(fields.len() == 4 && fields[2] == "8080", "{said:?}");
            ensure!(
                fields[3].ends_with(".echo-direct.default.svc.cluster.local."),
                "{said:?}"
            );
            addresses.extend(short(rack, &format!("A {}", fields[3]))?);
        }
        Ok(addresses == set(pods.iter().map(|pod| pod.ip.clone())))
    })?;
    Ok(())
}

fn a_pod_with_host_name_and_subdomain_has_a_name_and_a_ptr_record(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "named", "labels": {"app": "echo"}}, "spec": {
        "hostname": "first", "subdomain": "echo-direct", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "web", "image": "minidc.local/web:1", "imagePullPolicy": "IfNotPresent"}]}});
    rack.kubectl_with(&["apply", "-f", "-"], &pod.to_string())?;
    let outcome = (|| {
        rack.kubectl(&["wait", "--for=condition=Ready", "pod/named", "--timeout=120s"])?;
        let address = rack.kubectl(&["get", "pod", "named", "-o", "jsonpath={.status.podIP}"])?;
        let name = "first.echo-direct.default.svc.cluster.local";
        becomes(rack, &format!("A {name}"), &set([address.clone()]))?;
        becomes(rack, &format!("PTR {}", reverse(&address)), &set([format!("{name}.")]))?;
        let own = rack.kubectl(&["exec", "named", "--", "hostname", "-f"])?;
        ensure!(own.trim() == name, "hostname -f says {own}");
        Ok(())
    })();
    rack.kubectl(&["delete", "pod", "named", "--timeout=120s"])?;
    outcome
}

fn cname_record_of_an_external_name(rack: &Rack) -> Result<()> {
    apply(rack)?;
    becomes(
        rack,
        "CNAME elsewhere.default.svc.cluster.local",
        &set(["www.example.lan."]),
    )
}

fn a_record_of_a_pod_address(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pod = rack.ready_pods("app=echo")?.pop().context("no pod")?;
    let name = format!("{}.default.pod.cluster.local", pod.ip.replace('.', "-"));
    becomes(rack, &format!("A {name}"), &set([pod.ip]))
}

fn names_are_found_in_any_case(rack: &Rack) -> Result<()> {
    apply(rack)?;
    becomes(
        rack,
        "A EcHo.DEFAULT.svc.Cluster.Local",
        &set([cluster_ip(rack, "echo")?]),
    )?;
    let whole = dig(rack, "A EcHo.DEFAULT.svc.Cluster.Local")?;
    ensure!(whole.contains(";EcHo.DEFAULT.svc.Cluster.Local."), "{whole}");
    Ok(())
}

fn nxdomain_and_nodata_are_told_apart(rack: &Rack) -> Result<()> {
    apply(rack)?;
    for (question, status) in [
        ("A nothing.default.svc.cluster.local", "NXDOMAIN"),
        ("A echo.nowhere.svc.cluster.local", "NXDOMAIN"),
        ("AAAA echo.default.svc.cluster.local", "NOERROR"),
        // names that only lead to others exist, but have no records
        ("A svc.cluster.local", "NOERROR"),
        ("A default.svc.cluster.local", "NOERROR"),
        ("A _tcp.echo.default.svc.cluster.local", "NOERROR"),
    ] {
        let said = dig(rack, question)?;
        ensure!(said.contains(&format!("status: {status}")), "{question}\n{said}");
        ensure!(
            said.contains("ANSWER: 0,") && said.contains("\tSOA\t"),
            "{question}\n{said}"
        );
    }
    Ok(())
}

fn tcp_and_edns_work(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let wanted = set([cluster_ip(rack, "echo")?]);
    becomes(rack, "+tcp A echo.default.svc.cluster.local", &wanted)?;
    becomes(rack, "+noedns A echo.default.svc.cluster.local", &wanted)?;
    let said = dig(rack, "+edns=0 +bufsize=1232 A echo.default.svc.cluster.local")?;
    ensure!(said.contains("EDNS: version: 0"), "{said}");
    let said = dig(rack, "+edns=1 +noednsneg A echo.default.svc.cluster.local")?;
    ensure!(said.contains("status: BADVERS"), "{said}");
    Ok(())
}

fn local_names_are_never_asked_outside(rack: &Rack) -> Result<()> {
    let said = dig(rack, "A printer-that-is-not-there.local")?;
    ensure!(said.contains("status: NXDOMAIN"), "{said}");
    Ok(())
}

fn a_teams_zone_moves_in_unchanged_and_a_bad_one_is_reported(rack: &Rack) -> Result<()> {
    let zone = "$TTL 1h\n$ORIGIN example.lan.\n@ IN SOA ns1 hostmaster ( 2026110801 ; serial\n  1d 2h 4w 1h )\n  IN NS ns1\n\
                ns1 IN A 192.0.2.53\nwww IN A 192.0.2.80\n    IN A 192.0.2.81\nalias CNAME www\n*.apps A 192.0.2.90\n\
                @ MX 10 mail\nmail A 192.0.2.25\nnote TXT \"two words\" more\n";
    let map = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "team-zones", "namespace": "kube-system",
            "labels": {"minidc.dev/dns-zones": "true"}}, "data": {"db.example.lan": text}})
        .to_string()
    };
    rack.kubectl_with(&["apply", "-f", "-"], &map(zone))?;
    let outcome = (|| {
        becomes(rack, "A www.example.lan", &set(["192.0.2.80", "192.0.2.81"]))?;
        becomes(
            rack,
            "A alias.example.lan",
            &set(["www.example.lan.", "192.0.2.80", "192.0.2.81"]),
        )?;
        becomes(rack, "A anything.apps.example.lan", &set(["192.0.2.90"]))?;
        becomes(rack, "MX example.lan", &set(["10 mail.example.lan."]))?;
        becomes(rack, "TXT note.example.lan", &set(["\"two words\" \"more\""]))?;
        let said = dig(rack, "A missing.example.lan")?;
        ensure!(said.contains("status: NXDOMAIN") && said.contains(" aa "), "{said}");

        // a slip of the pen: the last good zone goes on, and an event says where
        rack.kubectl_with(&["apply", "-f", "-"], &map(&zone.replace("192.0.2.53", "192.0.2.530")))?;
        eventually(PATIENCE, "an event about the zone", || {
            let events = rack.kubectl(&[
                "get",
                "events",
                "-n",
                "kube-system",
                "--field-selector=involvedObject.name=team-zones",
                "-o",
                "jsonpath={.items[*].message}",
            ])?;
            ensure!(
                events.contains("db.example.lan") && events.contains("192.0.2.530"),
                "{events:?}"
            );
            ensure!(events.contains(":6:") || events.contains("line 6"), "{events:?}");
            Ok(true)
        })?;
        becomes(rack, "A www.example.lan", &set(["192.0.2.80", "192.0.2.81"]))
    })();
    rack.kubectl(&["delete", "configmap", "team-zones", "-n", "kube-system"])?;
    outcome
}

fn pods_get_dns_by_resolv_conf(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let pod = rack.ready_pods("app=echo")?.pop().context("no pod")?;
    let file = rack.kubectl(&["exec", &pod.name, "--", "cat", "/etc/resolv.conf"])?;
    ensure!(file.contains(&format!("nameserver {}", server(rack)?)), "{file}");
    ensure!(
        file.contains("search default.svc.cluster.local svc.cluster.local cluster.local") && file.contains("ndots:5"),
        "{file}"
    );
    eventually(PATIENCE, "the pod finds the Service", || {
        let said = rack.kubectl(&["exec", &pod.name, "--", "nslookup", "echo.default.svc.cluster.local"])?;
        ensure!(said.contains(&cluster_ip(rack, "echo")?), "{said}");
        Ok(true)
    })
    .map(drop)
}

fn dns_policy_and_dns_config_are_honoured(rack: &Rack) -> Result<()> {
    let pod = |name: &str, policy: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never", "dnsPolicy": policy,
            "terminationGracePeriodSeconds": 0,
            "dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["team.example"], "options": [{"name": "ndots", "value": "2"}]},
            "containers": [{"name": "web", "image": "minidc.local/web:1", "imagePullPolicy": "IfNotPresent",
                "command": ["cat", "/etc/resolv.conf"]}]}})
        .to_string()
    };
    let outcome = (|| {
        for (name, policy) in [("dns-none", "None"), ("dns-first", "ClusterFirst")] {
            rack.kubectl_with(&["apply", "-f", "-"], &pod(name, policy))?;
            rack.wait_for_phase(name, "Succeeded", PATIENCE)?;
        }
        let none = rack.kubectl(&["logs", "dns-none"])?;
        ensure!(
            none.contains("nameserver 192.0.2.9") && none.contains("search team.example") && none.contains("ndots:2"),
            "{none}"
        );
        ensure!(!none.contains("cluster.local"), "{none}");
        let first = rack.kubectl(&["logs", "dns-first"])?;
        ensure!(
            first.contains(&format!("nameserver {}", server(rack)?)) && first.contains("nameserver 192.0.2.9"),
            "{first}"
        );
        ensure!(
            first.contains("cluster.local team.example") && first.contains("ndots:2"),
            "{first}"
        );
        Ok(())
    })();
    rack.kubectl(&[
        "delete",
        "pod",
        "dns-none",
        "dns-first",
        "--ignore-not-found",
        "--timeout=120s",
    ])?;
    outcome
}

fn names_go_on_without_the_control_plane(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let (server, address) = (server(rack)?, cluster_ip(rack, "echo")?);
    let pods = set(rack
        .ready_pods("app=echo")?
        .into_iter()
        .filter(|pod| pod.node != "pi-1")
        .map(|pod| pod.name));
    // the node has its desired state on disk ten seconds after a change at the latest
    let addresses: Vec<String> = rack.ready_pods("app=echo")?.into_iter().map(|pod| pod.ip).collect();
    eventually(PATIENCE, "pi-2 has the Service and its pods on disk", || {
        let script = format!(
            "for word in echo-direct {}; do grep -aqF $word /var/lib/minidc/agent/desired || exit 1; done",
            addresses.join(" ")
        );
        rack.in_node("pi-2", &["sh", "-c", &script]).map(|_| true)
    })?;
    rack.rack("unplug", &["pi-1"])?;
    let outcome: Result<()> = (|| {
        rack.kill_minidc("pi-2")?;
        eventually(PATIENCE, "pi-2 still knows the name and the way", || {
            let question = [
                "dig",
                &format!("@{server}"),
                "+short",
                "+time=1",
                "+tries=1",
                "echo.default.svc.cluster.local",
            ];
            let said = rack.in_node("pi-2", &question)?;
            ensure!(said.trim() == address, "dig said {said:?}");
            let url = format!("http://{address}/");
            let answer = rack.in_node("pi-2", &["curl", "-sS", "--max-time", "3", &url])?;
            Ok(pods.contains(answer.trim()))
        })?;
        Ok(())
    })();
    rack.rack("plug", &["pi-1"])?;
    outcome?;
    apply(rack)
}

fn names_outside_are_asked_of_the_nodes_resolvers_and_known_without_them(rack: &Rack) -> Result<()> {
    apply(rack)?;
    let guest = crate::names::guest(rack, "laptop")?;
    let listed = rack.in_node(guest, &["sh", "-c", "ip -4 -o addr show dev eth0 | awk '{print $4}'"])?;
    let address = listed.trim().split('/').next().unwrap_or_default().to_owned();
    let config = format!(
        "options {{ directory \"/run\"; listen-on {{ {address}; }}; listen-on-v6 {{ none; }}; recursion no; pid-file \"/run/named.pid\"; \
         session-keyfile none; }}; controls {{ }}; zone \"printing-house.net\" {{ type primary; file \"/run/outside.zone\"; }};"
    );
    // an answer that is forgotten at once, unless somebody keeps it for bad times
    let zone = "$TTL 1\n@ SOA ns root 1 1d 1h 1w 1\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.99\n";
    let start = format!(
        "printf '%s' '{config}' >/run/named.conf; printf '{}' >/run/outside.zone; exec named -c /run/named.conf",
        zone.replace('\n', "\\n")
    );
    rack.in_node(guest, &["sh", "-c", &start])?;
    let resolver = |line: &str| rack.in_node("pi-2", &["sh", "-c", &format!("echo '{line}' >/etc/resolv.conf")]);
    resolver(&format!("nameserver {address}"))?;
    let outcome: Result<()> = (|| {
        becomes(rack, "A www.printing-house.net", &set(["192.0.2.99"]))?;
        eventually(PATIENCE, "that there is no such name", || {
            let said = dig(rack, "A nothing.printing-house.net")?;
            ensure!(said.contains("status: NXDOMAIN"), "{said}");
            Ok(true)
        })?;
        if let Some(pod) = rack.ready_pods("app=echo")?.into_iter().find(|pod| pod.node == "pi-2") {
            eventually(PATIENCE, "the same in a pod", || {
                let said = rack.kubectl(&["exec", &pod.name, "--", "nslookup", "www.printing-house.net"])?;
                ensure!(said.contains("192.0.2.99"), "{said}");
                Ok(true)
            })?;
        }
        rack.in_node(guest, &["sh", "-c", "kill $(cat /run/named.pid)"])?;
        eventually(
            PATIENCE,
            "an answer from before, although nobody is there to ask",
            || {
                let said = dig(rack, "A www.printing-house.net")?;
                // 30 seconds is what RFC 8767 gives a stale answer; its own second is over
                let stale = |line: &str| {
                    line.split_whitespace()
                        .eq(["www.printing-house.net.", "30", "IN", "A", "192.0.2.99"])
                };
                ensure!(said.lines().any(stale), "{said}");
                Ok(true)
            },
        )?;
        Ok(())
    })();
    resolver("# no name server")?;
    let _ = rack.in_node(guest, &["sh", "-c", "kill $(cat /run/named.pid) 2>/dev/null"]);
    outcome
}
