//! What is around the specification: other names, completion, limits of size, questions about the server.

use super::world::{POD, World, name, packet};
use crate::dns::message::{Class, Flags, Kind, Rcode};

const WEB: (&str, &str) = (
    "web.other",
    r#"{"spec":{"clusterIP":"100.65.0.7","ports":[{"port":80}]}}"#,
);
const PRINTER: (&str, &str) = (
    "printer",
    r#"{"metadata":{"annotations":{"minidc.dev/local-name":"printer"}},"spec":{"type":"LoadBalancer","clusterIP":"100.65.0.9"},
    "status":{"loadBalancer":{"ingress":[{"ip":"192.168.1.20"}]}}}"#,
);

fn alias(target: &str) -> String {
    format!(r#"{{"spec":{{"type":"ExternalName","externalName":"{target}"}}}}"#)
}

#[test]
fn other_names_are_asked_outside() {
    let mut world = World::new(&[], &[]);
    let question = world.ask_from(POD, "Www.Example.com", Kind::A).unwrap_err();
    assert_eq!(question.name.wire(), name("Www.Example.com").wire());
    let known = Ok([192, 0, 2, 1]);
    world.outside.known.insert("Www.Example.com. A".into(), known);
    let told = world.ask("Www.Example.com", Kind::A);
    told.has(&["Www.Example.com. 60 A 192.0.2.1"]);
    assert!(!told.flags.has(Flags::AUTHORITATIVE));
}

#[test]
fn without_recursion_only_what_is_known_is_told() {
    let mut world = World::new(&[("out", &alias("example.com"))], &[]);
    let ask = |world: &World, text: &str| {
        let packet = packet(text, Kind::A, Class::IN, 0);
        world.ask_packet(POD, &packet, 512).unwrap()
    };
    assert_eq!(ask(&world, "example.com").rcode, Rcode::REFUSED);
    ask(&world, "out.default.svc.cluster.local").has(&["out.default.svc.cluster.local. 5 CNAME example.com."]);
    let known = Ok([192, 0, 2, 1]);
    world.outside.known.insert("example.com. A".into(), known);
    ask(&world, "example.com").has(&["example.com. 60 A 192.0.2.1"]);
}

#[test]
fn names_on_the_lan_are_those_of_services_and_never_asked_outside() {
    let mut world = World::new(&[PRINTER], &[]);
    world
        .ask("printer.local", Kind::A)
        .has(&["printer.local. 5 A 192.168.1.20"]);
    world
        .ask("Printer.LOCAL", Kind::A)
        .has(&["Printer.LOCAL. 5 A 192.168.1.20"]);
    world.ask("printer.local", Kind::AAAA).is_empty();
    for missing in ["scanner.local", "a.printer.local", "local"] {
        world.ask(missing, Kind::A).is_missing();
    }
    world.set_service("printer", None);
    world.ask("printer.local", Kind::A).is_missing();
    assert_eq!(*world.outside.looked.borrow(), [""; 0]);
}

#[test]
fn special_names_are_never_asked_outside() {
    let world = World::new(&[], &[]);
    world.ask("localhost", Kind::A).has(&["localhost. 86400 A 127.0.0.1"]);
    world
        .ask("a.localhost", Kind::AAAA)
        .has(&["a.localhost. 86400 AAAA ::1"]);
    world.ask("localhost", Kind::MX).is_empty();
    for missing in ["a.invalid", "a.test", "a.onion", "a.alt", "_dns.resolver.arpa"] {
        world.ask(missing, Kind::A).is_missing();
    }
    world
        .ask("1.0.0.127.in-addr.arpa", Kind::PTR)
        .has(&["1.0.0.127.in-addr.arpa. 86400 PTR localhost."]);
    for missing in [
        "2.0.0.127.in-addr.arpa",
        "5.5.254.169.in-addr.arpa",
        "1.2.3.0.in-addr.arpa",
    ] {
        world.ask(missing, Kind::PTR).is_missing();
    }
    assert_eq!(*world.outside.looked.borrow(), [""; 0]);
    assert!(world.ask_from(POD, "1.1.168.192.in-addr.arpa", Kind::PTR).is_err());
    assert!(world.ask_from(POD, "mytest", Kind::A).is_err());
}

#[test]
fn any_is_answered_with_one_record_that_says_so() {
    let world = World::new(&[WEB], &[]);
    world
        .ask("web.other.svc.cluster.local", Kind::ANY)
        .has(&["web.other.svc.cluster.local. 5 HINFO RFC8482\0"]);
    world.ask("nothing.other.svc.cluster.local", Kind::ANY).is_missing();
    world
        .ask("example.com", Kind::ANY)
        .has(&["example.com. 5 HINFO RFC8482\0"]);
    assert_eq!(*world.outside.looked.borrow(), [""; 0]);
}

#[test]
fn the_server_tells_what_it_is() {
    let world = World::new(&[], &[]);
    let ask = |text: &str| {
        let packet = packet(text, Kind::TXT, Class::CHAOS, 0);
        world.ask_packet(POD, &packet, 512).unwrap()
    };
    let version = concat!("minidc ", env!("CARGO_PKG_VERSION"));
    ask("version.bind").has(&[&format!("version.bind. 0 TXT {version}")]);
    ask("ID.server").has(&["ID.server. 0 TXT pi-1"]);
    assert_eq!(ask("other.bind").rcode, Rcode::REFUSED);
}

#[test]
fn a_pods_names_are_completed_within_the_cluster() {
    let world = World::new(&[WEB], &[]);
    let told = world
        .ask_from(POD, "web.other.team.svc.cluster.local", Kind::A)
        .unwrap();
    told.has(&[
        "web.other.team.svc.cluster.local. 5 CNAME web.other.svc.cluster.local.",
        "web.other.svc.cluster.local. 5 A 100.65.0.7",
    ]);
    assert!(told.flags.has(Flags::AUTHORITATIVE));
    // the name is there, so nothing is left to look for
    let told = world
        .ask_from(POD, "web.other.team.svc.cluster.local", Kind::AAAA)
        .unwrap();
    told.has(&["web.other.team.svc.cluster.local. 5 CNAME web.other.svc.cluster.local."]);
    assert!(told.authorities[0].contains(" SOA "));
    world
        .ask_from(POD, "web.other.svc.team.svc.cluster.local", Kind::A)
        .unwrap()
        .has(&[
            "web.other.svc.team.svc.cluster.local. 5 CNAME web.other.svc.cluster.local.",
            "web.other.svc.cluster.local. 5 A 100.65.0.7",
        ]);
    // others complete their names themselves, and so does who asks for a service record
    world.ask("web.other.team.svc.cluster.local", Kind::A).is_missing();
    world
        .ask_from(POD, "web.other.team.svc.cluster.local", Kind::SRV)
        .unwrap()
        .is_missing();
}

#[test]
fn a_pods_names_are_completed_with_the_nodes_list_and_then_as_they_are() {
    let mut world = World::new(&[], &[]);
    let asked = "www.example.com.team.svc.cluster.local";
    let question = world.ask_from(POD, asked, Kind::A).unwrap_err();
    assert_eq!(question.name.to_string(), "www.example.com.lan.");
    let learn = |world: &mut World, name: &str, what| world.outside.known.insert(name.into(), what);
    learn(&mut world, "www.example.com.lan. A", Err(Rcode::NXDOMAIN));
    let question = world.ask_from(POD, asked, Kind::A).unwrap_err();
    assert_eq!(question.name.to_string(), "www.example.com.");
    learn(&mut world, "www.example.com. A", Ok([192, 0, 2, 1]));
    world.ask_from(POD, asked, Kind::A).unwrap().has(&[
        "www.example.com.team.svc.cluster.local. 5 CNAME www.example.com.",
        "www.example.com. 60 A 192.0.2.1",
    ]);
    // offline: the answer is still true, and the client finds out the rest itself
    learn(&mut world, "www.example.com. A", Err(Rcode::SERVFAIL));
    world.ask_from(POD, asked, Kind::A).unwrap().is_missing();
}

#[test]
fn names_meant_for_the_own_namespace_are_not_carried_outside() {
    let mut world = World::new(&[("db.team", r#"{"spec":{"clusterIP":"None"}}"#)], &[]);
    for missing in ["typo", "db-0.db", "default"] {
        let name = format!("{missing}.team.svc.cluster.local");
        world.ask_from(POD, &name, Kind::A).unwrap().is_missing();
    }
    assert_eq!(*world.outside.looked.borrow(), [""; 0]);
    world.set_service("db.team", None);
    assert!(world.ask_from(POD, "db-0.db.team.svc.cluster.local", Kind::A).is_err());
}

#[test]
fn aliases_that_lead_in_a_circle_end() {
    let world = World::new(
        &[
            ("a", &alias("b.default.svc.cluster.local")),
            ("b", &alias("a.default.svc.cluster.local")),
        ],
        &[],
    );
    let told = world.ask("a.default.svc.cluster.local", Kind::A);
    assert_eq!((told.rcode, told.answers.len()), (Rcode::SERVFAIL, 0));
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let endpoints: Vec<String> = (0..100)
        .map(|n| format!(r#"{{"addresses":["100.64.9.{n}"]}}"#))
        .collect();
    let slice = format!(
        r#"{{"metadata":{{"labels":{{"kubernetes.io/service-name":"many"}}}},"ports":[{{"name":"p","port":1}}],"endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    let world = World::new(&[("many", r#"{"spec":{"clusterIP":"None"}}"#)], &[("many-1", &slice)]);
    let ask = |text: &str, kind, limit| {
        let packet = packet(text, kind, Class::IN, 0);
        world.ask_packet(POD, &packet, limit).unwrap()
    };
    let told = ask("many.default.svc.cluster.local", Kind::A, 512);
    assert!(told.flags.has(Flags::TRUNCATED) && told.answers.len() > 20);
    let told = ask("many.default.svc.cluster.local", Kind::A, 65_535);
    assert!(!told.flags.has(Flags::TRUNCATED));
    assert_eq!(told.answers.len(), 100);
    let told = ask("_p._tcp.many.default.svc.cluster.local", Kind::SRV, 65_535);
    assert_eq!((told.answers.len(), told.additionals.len()), (100, 100));
    // addresses that only spare a question are left out instead
    let told = ask("_p._tcp.many.default.svc.cluster.local", Kind::SRV, 8000);
    assert!(!told.flags.has(Flags::TRUNCATED));
    assert_eq!(told.answers.len(), 100);
    assert!(told.additionals.len() < 100);
}
