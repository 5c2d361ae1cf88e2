//! kubernetes/dns docs/specification.md, version 1.1.0: each kind of record a test of its own.

use super::world::World;
use crate::dns::message::{Flags, Kind, Rcode};

const WEB: (&str, &str) = (
    "web",
    r#"{"spec":{"clusterIP":"100.65.0.7","clusterIPs":["100.65.0.7","fd65::7"],"ports":[{"name":"http","port":80},{"name":"dns","protocol":"UDP","port":53}]}}"#,
);
const HEADLESS: (&str, &str) = (
    "db",
    r#"{"spec":{"clusterIP":"None","ports":[{"name":"sql","port":3306}]}}"#,
);
const MEMBERS: (&str, &str) = (
    "db-1",
    r#"{"metadata":{"labels":{"kubernetes.io/service-name":"db"}},"ports":[{"name":"sql","port":3306}],"endpoints":[
    {"addresses":["100.64.1.8"],"hostname":"db-0"},{"addresses":["100.64.2.9"]},
    {"addresses":["100.64.2.10"],"hostname":"late","conditions":{"ready":false}}]}"#,
);
const MEMBERS_V6: (&str, &str) = (
    "db-2",
    r#"{"metadata":{"labels":{"kubernetes.io/service-name":"db"}},"ports":[{"name":"sql","port":3306}],"endpoints":[
    {"addresses":["fd64::8"],"hostname":"db-0"}]}"#,
);

fn world() -> World {
    World::new(&[WEB, HEADLESS], &[MEMBERS, MEMBERS_V6])
}

#[test]
fn the_schema_version_is_told() {
    world()
        .ask("dns-version.cluster.local", Kind::TXT)
        .has(&["dns-version.cluster.local. 28800 TXT 1.1.0"]);
    world().ask("dns-version.cluster.local", Kind::A).is_empty();
}

#[test]
fn a_service_has_the_addresses_of_its_cluster_ips() {
    let told = world().ask("web.default.svc.cluster.local", Kind::A);
    told.has(&["web.default.svc.cluster.local. 5 A 100.65.0.7"]);
    assert!(told.flags.has(Flags::AUTHORITATIVE));
    world()
        .ask("web.default.svc.cluster.local", Kind::AAAA)
        .has(&["web.default.svc.cluster.local. 5 AAAA fd65::7"]);
    world().ask("web.default.svc.cluster.local", Kind::MX).is_empty();
}

#[test]
fn each_named_port_of_a_service_has_an_srv_record() {
    let told = world().ask("_http._tcp.web.default.svc.cluster.local", Kind::SRV);
    told.has(&["_http._tcp.web.default.svc.cluster.local. 5 SRV 0 100 80 web.default.svc.cluster.local."]);
    assert_eq!(
        told.additionals,
        [
            "web.default.svc.cluster.local. 5 A 100.65.0.7",
            "web.default.svc.cluster.local. 5 AAAA fd65::7"
        ]
    );
    world()
        .ask("_dns._udp.web.default.svc.cluster.local", Kind::SRV)
        .has(&["_dns._udp.web.default.svc.cluster.local. 5 SRV 0 100 53 web.default.svc.cluster.local."]);
    for missing in ["_http._udp", "_https._tcp", "http.tcp"] {
        let name = format!("{missing}.web.default.svc.cluster.local");
        world().ask(&name, Kind::SRV).is_missing();
    }
    world()
        .ask("_http._tcp.web.default.svc.cluster.local", Kind::A)
        .is_empty();
}

#[test]
fn an_unnamed_port_has_no_srv_record() {
    let service = r#"{"spec":{"clusterIP":"100.65.0.8","ports":[{"port":80}]}}"#;
    let world = World::new(&[("one", service)], &[]);
    world
        .ask("_._tcp.one.default.svc.cluster.local", Kind::SRV)
        .is_missing();
    world.ask("_tcp.one.default.svc.cluster.local", Kind::SRV).is_missing();
}

#[test]
fn a_cluster_ip_leads_back_to_its_service() {
    world()
        .ask("7.0.65.100.in-addr.arpa", Kind::PTR)
        .has(&["7.0.65.100.in-addr.arpa. 5 PTR web.default.svc.cluster.local."]);
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.6.d.f.ip6.arpa";
    world()
        .ask(v6, Kind::PTR)
        .has(&[&format!("{v6}. 5 PTR web.default.svc.cluster.local.")]);
    world().ask("8.0.65.100.in-addr.arpa", Kind::PTR).is_missing();
    world().ask("7.0.65.100.in-addr.arpa", Kind::A).is_empty();
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    world().ask("db.default.svc.cluster.local", Kind::A).has(&[
        "db.default.svc.cluster.local. 5 A 100.64.1.8",
        "db.default.svc.cluster.local. 5 A 100.64.2.9",
    ]);
    world()
        .ask("db.default.svc.cluster.local", Kind::AAAA)
        .has(&["db.default.svc.cluster.local. 5 AAAA fd64::8"]);
}

#[test]
fn a_headless_service_without_ready_endpoints_is_not_there() {
    let world = World::new(&[HEADLESS], &[]);
    world.ask("db.default.svc.cluster.local", Kind::A).is_missing();
}

#[test]
fn an_endpoint_of_a_headless_service_has_its_host_name() {
    world()
        .ask("db-0.db.default.svc.cluster.local", Kind::A)
        .has(&["db-0.db.default.svc.cluster.local. 5 A 100.64.1.8"]);
    world()
        .ask("db-0.db.default.svc.cluster.local", Kind::AAAA)
        .has(&["db-0.db.default.svc.cluster.local. 5 AAAA fd64::8"]);
    world().ask("late.db.default.svc.cluster.local", Kind::A).is_missing();
}

#[test]
fn an_endpoint_without_a_host_name_is_named_by_its_address() {
    world()
        .ask("100-64-2-9.db.default.svc.cluster.local", Kind::A)
        .has(&["100-64-2-9.db.default.svc.cluster.local. 5 A 100.64.2.9"]);
    world()
        .ask("100-64-2-9.db.default.svc.cluster.local", Kind::AAAA)
        .is_empty();
    // neither one that is not ready, nor the one that has a host name
    for missing in ["100-64-2-10", "100-64-1-8"] {
        let name = format!("{missing}.db.default.svc.cluster.local");
        world().ask(&name, Kind::A).is_missing();
    }
}

#[test]
fn each_endpoint_of_a_headless_service_has_an_srv_record_per_named_port() {
    let told = world().ask("_sql._tcp.db.default.svc.cluster.local", Kind::SRV);
    told.has(&[
        "_sql._tcp.db.default.svc.cluster.local. 5 SRV 0 100 3306 100-64-2-9.db.default.svc.cluster.local.",
        "_sql._tcp.db.default.svc.cluster.local. 5 SRV 0 100 3306 db-0.db.default.svc.cluster.local.",
    ]);
    assert_eq!(
        told.additionals,
        [
            "100-64-2-9.db.default.svc.cluster.local. 5 A 100.64.2.9",
            "db-0.db.default.svc.cluster.local. 5 A 100.64.1.8",
            "db-0.db.default.svc.cluster.local. 5 AAAA fd64::8",
        ]
    );
    world()
        .ask("_no._tcp.db.default.svc.cluster.local", Kind::SRV)
        .is_missing();
    world().ask("_tcp.db.default.svc.cluster.local", Kind::SRV).is_empty();
}

#[test]
fn the_address_of_a_headless_services_endpoint_leads_back_to_its_name() {
    world()
        .ask("8.1.64.100.in-addr.arpa", Kind::PTR)
        .has(&["8.1.64.100.in-addr.arpa. 5 PTR db-0.db.default.svc.cluster.local."]);
    world()
        .ask("9.2.64.100.in-addr.arpa", Kind::PTR)
        .has(&["9.2.64.100.in-addr.arpa. 5 PTR 100-64-2-9.db.default.svc.cluster.local."]);
    world().ask("10.2.64.100.in-addr.arpa", Kind::PTR).is_missing();
}

#[test]
fn an_external_name_is_an_alias() {
    let alias = |target: &str| format!(r#"{{"spec":{{"type":"ExternalName","externalName":"{target}"}}}}"#);
    let mut world = World::new(
        &[
            ("out", &alias("www.example.com.")),
            ("in", &alias("web.default.svc.cluster.local")),
            ("address", &alias("192.0.2.1")),
            WEB,
        ],
        &[],
    );
    let asked = world.ask_from("192.0.2.1", "out.default.svc.cluster.local", Kind::A);
    assert_eq!(asked.unwrap_err().name.to_string(), "www.example.com.");
    let known = Ok([192, 0, 2, 53]);
    world.outside.known.insert("www.example.com. A".into(), known);
    let told = world.ask("out.default.svc.cluster.local", Kind::A);
    told.has(&[
        "out.default.svc.cluster.local. 5 CNAME www.example.com.",
        "www.example.com. 60 A 192.0.2.53",
    ]);
    assert!(told.flags.has(Flags::AUTHORITATIVE));
    world
        .ask("out.default.svc.cluster.local", Kind::CNAME)
        .has(&["out.default.svc.cluster.local. 5 CNAME www.example.com."]);
    world.ask("in.default.svc.cluster.local", Kind::A).has(&[
        "in.default.svc.cluster.local. 5 CNAME web.default.svc.cluster.local.",
        "web.default.svc.cluster.local. 5 A 100.65.0.7",
    ]);
    world.ask("address.default.svc.cluster.local", Kind::A).is_empty();
    world.ask("x.out.default.svc.cluster.local", Kind::A).is_missing();
}

#[test]
fn a_pod_has_a_name_made_of_its_address() {
    world()
        .ask("100-64-1-5.team.pod.cluster.local", Kind::A)
        .has(&["100-64-1-5.team.pod.cluster.local. 5 A 100.64.1.5"]);
    world()
        .ask("fd64--5.team.pod.cluster.local", Kind::AAAA)
        .has(&["fd64--5.team.pod.cluster.local. 5 AAAA fd64::5"]);
    world().ask("100-64-1-5.team.pod.cluster.local", Kind::AAAA).is_empty();
    world().ask("100-64-1-5.nobody.pod.cluster.local", Kind::A).is_missing();
    world().ask("web.team.pod.cluster.local", Kind::A).is_missing();
}

#[test]
fn comparison_ignores_case_and_answers_keep_it() {
    let told = world().ask("WEB.deFault.SVC.Cluster.Local", Kind::A);
    told.has(&["WEB.deFault.SVC.Cluster.Local. 5 A 100.65.0.7"]);
    assert_eq!(&told.message[12..16], b"\x03WEB");
    world()
        .ask("_HTTP._TCP.Web.default.svc.cluster.local", Kind::SRV)
        .has(&["_HTTP._TCP.Web.default.svc.cluster.local. 5 SRV 0 100 80 web.default.svc.cluster.local."]);
    world()
        .ask("DB-0.db.default.svc.cluster.local", Kind::A)
        .has(&["DB-0.db.default.svc.cluster.local. 5 A 100.64.1.8"]);
}

#[test]
fn the_zone_has_an_owner_and_a_server() {
    world()
        .ask("cluster.local", Kind::SOA)
        .has(&["cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local."]);
    let told = world().ask("cluster.local", Kind::NS);
    told.has(&["cluster.local. 5 NS ns.dns.cluster.local."]);
    assert_eq!(told.additionals, ["ns.dns.cluster.local. 5 A 100.65.0.10"]);
    world()
        .ask("ns.dns.cluster.local", Kind::A)
        .has(&["ns.dns.cluster.local. 5 A 100.65.0.10"]);
    world().ask("cluster.local", Kind::A).is_empty();
}

#[test]
fn names_between_others_are_there_without_records() {
    for between in [
        "svc.cluster.local",
        "pod.cluster.local",
        "dns.cluster.local",
        "default.svc.cluster.local",
        "team.pod.cluster.local",
        "_tcp.web.default.svc.cluster.local",
        "_udp.web.default.svc.cluster.local",
        "0.65.100.in-addr.arpa",
    ] {
        world().ask(between, Kind::A).is_empty();
    }
    for missing in [
        "nothing.cluster.local",
        "nobody.svc.cluster.local",
        "nothing.default.svc.cluster.local",
        "web.team.svc.cluster.local",
        "a.b.c.d.web.default.svc.cluster.local",
        "_tcp.db-0.db.default.svc.cluster.local",
        "x.dns-version.cluster.local",
    ] {
        world().ask(missing, Kind::A).is_missing();
    }
}

#[test]
fn what_was_not_told_yet_is_not_denied() {
    let mut world = World::empty();
    world.set_service("web", Some(WEB.1));
    world
        .ask("web.default.svc.cluster.local", Kind::A)
        .has(&["web.default.svc.cluster.local. 5 A 100.65.0.7"]);
    for unknown in [
        "other.default.svc.cluster.local",
        "nobody.svc.cluster.local",
        "1-2-3-4.nobody.pod.cluster.local",
        "9.0.65.100.in-addr.arpa",
        "printer.local",
    ] {
        assert_eq!(world.ask(unknown, Kind::A).rcode, Rcode::SERVFAIL, "{unknown}");
    }
    // whatever will be told, such a name cannot be
    world.ask("example.com.cluster.local", Kind::A).is_missing();
}

#[test]
fn endpoints_that_are_not_ready_are_published_when_the_service_says_so() {
    let service =
        r#"{"spec":{"clusterIP":"None","publishNotReadyAddresses":true,"ports":[{"name":"sql","port":3306}]}}"#;
    let world = World::new(&[("db", service)], &[MEMBERS]);
    world
        .ask("late.db.default.svc.cluster.local", Kind::A)
        .has(&["late.db.default.svc.cluster.local. 5 A 100.64.2.10"]);
}

#[test]
fn news_of_a_service_change_all_its_names() {
    let mut world = world();
    let moved = r#"{"metadata":{"labels":{"kubernetes.io/service-name":"db"}},"endpoints":[
        {"addresses":["100.64.3.3"],"hostname":"db-0"}]}"#;
    world.set_slice("db-1", Some(moved));
    world.set_slice("db-2", None);
    world
        .ask("db-0.db.default.svc.cluster.local", Kind::A)
        .has(&["db-0.db.default.svc.cluster.local. 5 A 100.64.3.3"]);
    world.ask("8.1.64.100.in-addr.arpa", Kind::PTR).is_missing();
    world
        .ask("3.3.64.100.in-addr.arpa", Kind::PTR)
        .has(&["3.3.64.100.in-addr.arpa. 5 PTR db-0.db.default.svc.cluster.local."]);

    // a slice that goes over to another Service
    world.set_slice("db-1", Some(&moved.replace("\"db\"", "\"other\"")));
    world.ask("db.default.svc.cluster.local", Kind::A).is_missing();
    world.set_service("other", Some(HEADLESS.1));
    world
        .ask("other.default.svc.cluster.local", Kind::A)
        .has(&["other.default.svc.cluster.local. 5 A 100.64.3.3"]);

    world.set_service("web", None);
    world.ask("web.default.svc.cluster.local", Kind::A).is_missing();
    world.ask("7.0.65.100.in-addr.arpa", Kind::PTR).is_missing();
    world.set_service("other", None);
    world.set_slice("db-1", None);
    world.ask("3.3.64.100.in-addr.arpa", Kind::PTR).is_missing();
}

#[test]
fn endpoints_of_other_services_have_names_too() {
    let slice = r#"{"metadata":{"labels":{"kubernetes.io/service-name":"web"}},"ports":[{"name":"http","port":8080}],
        "endpoints":[{"addresses":["100.64.1.8"]}]}"#;
    let world = World::new(&[WEB], &[("web-1", slice)]);
    world
        .ask("100-64-1-8.web.default.svc.cluster.local", Kind::A)
        .has(&["100-64-1-8.web.default.svc.cluster.local. 5 A 100.64.1.8"]);
}
