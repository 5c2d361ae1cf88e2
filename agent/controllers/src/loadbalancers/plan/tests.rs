use serde_json::{Value, json};

use super::*;
use crate::objects::from_json;
use crate::objects::service::{ANNOUNCED_BY, LOCAL_NAME};

#[derive(Default)]
struct World {
    services: Vec<Value>,
    nodes: Vec<Value>,
    ready: HashMap<Key, BTreeSet<Box<str>>>,
    host_ports: HashMap<Box<str>, HashSet<(Box<str>, u16)>>,
}

impl World {
    fn with_nodes(names: &[&str]) -> Self {
        let mut world = Self::default();
        for (number, name) in names.iter().enumerate() {
            world.nodes.push(json!({
                "metadata": {"name": name},
                "status": {
                    "addresses": [
                        {"type": "Hostname", "address": name},
                        {"type": "InternalIP", "address": format!("192.0.2.{}", number + 1)},
                    ],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }));
        }
        world
    }

    /// A Service with these TCP ports; later ones are younger.
    fn add(&mut self, namespace: &str, name: &str, ports: &[u16]) -> &mut Value {
        let age = self.services.len();
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"port": port, "protocol": "TCP"}))
            .collect();
        self.services.push(json!({
            "metadata": {
                "namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"),
                "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"), "annotations": {},
            },
            "spec": {"type": "LoadBalancer", "clusterIP": "100.65.0.9", "ports": ports},
            "status": {"loadBalancer": {}},
        }));
        self.services.last_mut().unwrap()
    }

    fn ready(&mut self, namespace: &str, name: &str, nodes: &[&str]) {
        let nodes = nodes.iter().map(|node| (*node).into()).collect();
        self.ready.insert(Key::new(namespace, name), nodes);
    }

    fn set_ready(&mut self, node: usize, status: &str) {
        self.nodes[node]["status"]["conditions"][0]["status"] = status.into();
    }

    fn plan(&self) -> Vec<(Arc<Service>, Share)> {
        let services: Vec<Arc<Service>> = self.services.iter().cloned().map(from_json).collect();
        let nodes: Vec<Arc<Node>> = self.nodes.iter().cloned().map(from_json).collect();
        plan(&Observed {
            services: &services,
            nodes: &nodes,
            ready: &self.ready,
            host_ports: &self.host_ports,
            limits: &Limits {
                cluster: "Rack1".into(),
                api_port: 6443,
            },
        })
    }

    /// Plans, writes the outcome into the objects, and tells node and name of each Service, in the order in which they were added.
    fn settle(&mut self) -> Vec<(String, String)> {
        let shares = self.plan();
        let mut told = Vec::new();
        for service in &mut self.services {
            let share = shares
                .iter()
                .find(|(known, _)| *known.metadata.uid == *service["metadata"]["uid"].as_str().unwrap())
                .map(|(_, share)| share)
                .unwrap();
            let place = match &share.place {
                Place::At { node, addresses } => {
                    service["metadata"]["annotations"][ANNOUNCED_BY] = (**node).into();
                    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
                    service["status"]["loadBalancer"]["ingress"] = ingress.into();
                    node.to_string()
                }
                Place::Unchanged => "unchanged".into(),
                Place::Nowhere(why) => {
                    service["status"] = json!({"loadBalancer": {}});
                    why.clone()
                }
            };
            let name = match &share.name {
                Name::Own(name) => {
                    service["metadata"]["annotations"][LOCAL_NAME] = (**name).into();
                    name.to_string()
                }
                Name::Refused(_, why) => why.clone(),
            };
            told.push((place, name));
        }
        told
    }

    fn places(&mut self) -> Vec<String> {
        self.settle().into_iter().map(|(place, _)| place).collect()
    }
}

#[test]
fn services_of_the_same_port_are_at_different_nodes() {
    let mut world = World::with_nodes(&["pi-1", "pi-2"]);
    world.add("default", "web", &[80]);
    world.add("default", "shop", &[80, 443]);
    world.add("default", "mail", &[25]);
    world.add("default", "late", &[443, 80]);
    assert_eq!(
        world.places(),
        [
            "pi-1",
            "pi-2",
            "pi-1",
            "no node that is ready has port 443/TCP and 80/TCP free"
        ]
    );
    // It stays so, until a place comes free.
    world.services.remove(0);
    assert_eq!(world.places(), ["pi-2", "pi-1", "pi-1"]);
}

#[test]
fn nodes_with_ready_endpoints_come_first_and_the_choice_is_kept() {
    let mut world = World::with_nodes(&["pi-1", "pi-2", "pi-3"]);
    world.add("default", "web", &[80]);
    world.ready("default", "web", &["pi-3"]);
    assert_eq!(world.places(), ["pi-3"]);
    world.ready("default", "web", &["pi-1", "pi-2"]);
    assert_eq!(world.places(), ["pi-3"]);
    // Who answers only for itself goes where its pods are.
    world.services[0]["spec"]["externalTrafficPolicy"] = "Local".into();
    assert_eq!(world.places(), ["pi-1"]);
    world.ready("default", "web", &[]);
    assert_eq!(world.places(), ["pi-1"]);
}

#[test]
fn a_service_leaves_a_node_that_is_not_well_and_does_not_come_back() {
    let mut world = World::with_nodes(&["pi-1", "pi-2"]);
    world.add("default", "web", &[80]);
    assert_eq!(world.places(), ["pi-1"]);
    for status in ["Unknown", "False"] {
        world.set_ready(0, status);
        assert_eq!(world.places(), ["pi-2"]);
        world.set_ready(0, "True");
        assert_eq!(world.places(), ["pi-2"]);
        world.set_ready(1, status);
        assert_eq!(world.places(), ["pi-1"]);
        world.set_ready(1, "True");
    }
    world.nodes.remove(0);
    assert_eq!(world.places(), ["pi-2"]);
    // A node with another address takes it along.
    world.nodes[0]["status"]["addresses"][1]["address"] = "192.0.2.99".into();
    assert_eq!(world.places(), ["pi-2"]);
    assert_eq!(
        world.services[0]["status"]["loadBalancer"]["ingress"][0]["ip"],
        "192.0.2.99"
    );
    // Nobody is heard: that says nothing of where it should be.
    world.set_ready(0, "Unknown");
    assert_eq!(world.places(), ["unchanged"]);
    world.add("default", "new", &[81]);
    assert_eq!(world.places(), ["unchanged", "no node is ready"]);
}

#[test]
fn nodes_that_are_excluded_closed_or_busy_are_avoided() {
    let mut world = World::with_nodes(&["pi-1", "pi-2", "pi-3"]);
    world.nodes[0]["metadata"]["labels"] = json!({EXCLUDED: ""});
    world.nodes[1]["spec"]["unschedulable"] = true.into();
    world.add("default", "web", &[80]);
    assert_eq!(world.places(), ["pi-3"]);
    world.add("default", "second", &[80]);
    assert_eq!(world.places(), ["pi-3", "pi-2"]);
    let mut world = World::with_nodes(&["pi-1", "pi-2"]);
    world
        .host_ports
        .insert("pi-1".into(), HashSet::from([("TCP".into(), 80)]));
    world.add("default", "web", &[80]);
    assert_eq!(world.places(), ["pi-2"]);
}

#[test]
fn an_address_that_is_asked_for_is_that_of_its_node_or_none() {
    let mut world = World::with_nodes(&["pi-1", "pi-2"]);
    world.add("default", "web", &[80])["spec"]["loadBalancerIP"] = "192.0.2.2".into();
    world.add("default", "other", &[81])["spec"]["loadBalancerIP"] = "192.0.2.7".into();
    assert_eq!(
        world.places(),
        ["pi-2", "no node that is ready has the address 192.0.2.7"]
    );
}

#[test]
fn ports_of_the_node_itself_are_refused() {
    let mut world = World::with_nodes(&["pi-1"]);
    for (name, port) in [("a", 6443), ("b", 22), ("c", 53), ("d", 30080)] {
        world.add("default", name, &[port]);
    }
    let own = world.add("default", "e", &[30081]);
    own["spec"]["ports"][0]["nodePort"] = 30081.into();
    let udp = world.add("default", "f", &[22]);
    udp["spec"]["ports"][0]["protocol"] = "UDP".into();
    assert_eq!(
        world.places(),
        [
            "port 6443/TCP of every node is taken by the API",
            "port 22/TCP of every node is taken by SSH",
            "port 53/TCP of every node is taken by DNS",
            "port 30080/TCP is in the range of node ports (30000-32767)",
            "pi-1",
            "pi-1",
        ]
    );
}

#[test]
fn the_first_owner_keeps_a_name_and_reserved_names_are_nobodys() {
    let mut world = World::with_nodes(&["pi-1.example.org"]);
    world.add("team", "web", &[1]);
    world.add("default", "web-team", &[2]);
    world.add("default", "web", &[3]);
    for (number, name) in ["cluster", "localhost", "rack1", "pi-1"].iter().enumerate() {
        world.add("default", name, &[10 + u16::try_from(number).unwrap()]);
    }
    world.add("default", &"x".repeat(64), &[20]);
    let names = |world: &mut World| -> Vec<String> { world.settle().into_iter().map(|(_, name)| name).collect() };
    let refused = |name: &str, why: &str| format!("{name}.local is not announced: {why}");
    let expected = [
        "web-team".to_owned(),
        refused("web-team", "Service team/web has the name"),
        "web".to_owned(),
        refused("cluster", "it is reserved"),
        refused("localhost", "it is reserved"),
        refused("rack1", "it is the cluster's own"),
        refused("pi-1", "node pi-1.example.org has it"),
        refused(&"x".repeat(64), "a name has at most 63 characters"),
    ];
    assert_eq!(names(&mut world), expected);
    // An older Service by a clock that was wrong does not take what another has.
    world.services[1]["metadata"]["creationTimestamp"] = "2000-01-01T00:00:00Z".into();
    assert_eq!(names(&mut world), expected);
    // Once its owner is gone, it does.
    world.services.remove(0);
    assert_eq!(names(&mut world)[0], "web-team");
}

#[test]
fn both_families_are_given_where_both_are_wanted() {
    let mut world = World::with_nodes(&["pi-1"]);
    world.nodes[0]["status"]["addresses"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "InternalIP", "address": "fd00::1"}));
    world.add("default", "web", &[80])["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    world.settle();
    assert_eq!(
        world.services[0]["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "fd00::1"}, {"ip": "192.0.2.1"}])
    );
}
