use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;
use crate::endpointslices::writer::Owned;
use crate::objects::{Key, Owner, SERVICES, from_json};

fn service(more: &Value) -> Arc<Service> {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "a"}},
        "spec": {
            "clusterIP": "100.65.0.9", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    });
    for (field, value) in more.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    from_json(service)
}

fn pod_value(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("web-{number}"), "namespace": "default", "uid": format!("p{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "pi-1", "containers": [{"ports": [{"name": "http", "containerPort": 8080 + number % 2, "protocol": "TCP"}]}]},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": format!("100.64.{}.{}", number / 250, number % 250 + 1)}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pods(numbers: impl IntoIterator<Item = usize>) -> Vec<Arc<Pod>> {
    numbers.into_iter().map(|number| from_json(pod_value(number))).collect()
}

fn node(name: &str) -> Option<Arc<Node>> {
    (name != "gone").then(|| from_json(json!({"metadata": {"name": name, "labels": {ZONE: "kitchen"}}})))
}

/// The API, as far as slices go: what was written comes back.
#[derive(Default)]
struct Slices {
    list: Vec<Arc<EndpointSlice>>,
    named: usize,
}

/// Ready, serving, terminating.
type State = (bool, bool, bool);
/// What happens to a pod.
type Alter<'a> = &'a dyn Fn(&mut Value);
/// Slices created, updated and deleted.
type Counts = (usize, usize, usize);

impl Slices {
    fn write(&mut self, body: &Body, name: Option<&str>) {
        let name = name.map_or_else(
            || {
                self.named += 1;
                format!("web-{}", self.named)
            },
            str::to_owned,
        );
        let labels: serde_json::Map<String, Value> = body
            .labels
            .iter()
            .map(|(name, value)| (name.to_string(), (**value).into()))
            .collect();
        self.list.push(from_json(json!({
            "metadata": {
                "name": name, "namespace": "default", "uid": name, "labels": labels,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s", "controller": true}],
            },
            "addressType": body.family.name(),
            "endpoints": body.endpoints,
            "ports": body.ports.iter().map(Port::in_slice).collect::<Vec<_>>(),
        })));
    }

    fn reconcile(&mut self, service: &Service, pods: &[Arc<Pod>]) -> Counts {
        let actions = plan(&Observed {
            service,
            pods,
            slices: &self.list,
            node: &node,
        });
        let changed: HashSet<&str> = actions
            .delete
            .iter()
            .chain(actions.update.iter().map(|(slice, _)| slice))
            .map(|slice| &*slice.metadata.key.name)
            .collect();
        self.list.retain(|slice| !changed.contains(&*slice.metadata.key.name));
        for body in &actions.create {
            self.write(body, None);
        }
        for (slice, body) in &actions.update {
            assert_eq!(
                slice.family,
                Some(body.family),
                "the address type of a slice cannot change"
            );
            self.write(body, Some(&slice.metadata.key.name));
        }
        (actions.create.len(), actions.update.len(), actions.delete.len())
    }

    /// Endpoints per slice, the fullest first.
    fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.list.iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes
    }

    /// Of the endpoint of a pod.
    fn conditions(&self, pod: &str) -> Option<State> {
        let endpoint = self
            .list
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .find(|endpoint| endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()) == Some(pod))?;
        let Conditions {
            ready,
            serving,
            terminating,
        } = endpoint.conditions;
        Some((ready?, serving?, terminating?))
    }
}

#[test]
fn slices_hold_a_hundred_and_are_packed_with_the_fewest_writes() {
    let service = service(&json!({}));
    let mut slices = Slices::default();
    assert_eq!(slices.reconcile(&service, &pods(0..250)), (3, 0, 0));
    assert_eq!(slices.sizes(), [100, 100, 50]);
    // Nothing changed: nothing is written.
    assert_eq!(slices.reconcile(&service, &pods(0..250)), (0, 0, 0));
    // New ones go where there is room for all of them.
    assert_eq!(slices.reconcile(&service, &pods(0..300)), (0, 1, 0));
    assert_eq!(slices.sizes(), [100, 100, 100]);
    assert_eq!(slices.reconcile(&service, &pods(0..301)), (1, 0, 0));
    // Those that leave take no others with them; the slice that has to be written anyway takes up the new.
    let some: Vec<usize> = (0..301).filter(|number| *number != 7).chain([400]).collect();
    assert_eq!(slices.reconcile(&service, &pods(some)), (0, 1, 0));
    assert_eq!(slices.sizes(), [100, 100, 100, 1]);
    // A slice without endpoints goes.
    let (_, updated, deleted) = slices.reconcile(&service, &pods(0..30));
    assert!(updated >= 1 && deleted == 4 - slices.list.len());
    assert_eq!(slices.sizes().iter().sum::<usize>(), 30);
}

#[test]
fn a_service_without_endpoints_has_one_empty_slice() {
    let service = service(&json!({}));
    let mut slices = Slices::default();
    assert_eq!(slices.reconcile(&service, &[]), (1, 0, 0));
    assert_eq!((slices.sizes(), slices.list[0].ports.len()), (vec![0], 0));
    assert_eq!(slices.reconcile(&service, &[]), (0, 0, 0));
    // It becomes the first one that has some, and the last one becomes it again.
    assert_eq!(slices.reconcile(&service, &pods(0..1)), (0, 1, 0));
    assert_eq!((slices.sizes(), slices.list[0].ports.len()), (vec![1], 1));
    assert_eq!(slices.reconcile(&service, &[]), (0, 1, 0));
    assert_eq!((slices.sizes(), slices.list[0].ports.len()), (vec![0], 0));
}

#[test]
fn conditions_follow_readiness_and_deletion() {
    let changed = |change: Alter<'_>| -> Vec<Arc<Pod>> {
        let mut pod = pod_value(0);
        change(&mut pod);
        vec![from_json(pod)]
    };
    let unready = |pod: &mut Value| pod["status"]["conditions"][0]["status"] = "False".into();
    let deleted = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let both = |pod: &mut Value| {
        unready(pod);
        deleted(pod);
    };
    let finished = |pod: &mut Value| pod["status"]["phase"] = "Succeeded".into();
    let unaddressed = |pod: &mut Value| pod["status"]["podIPs"] = json!([]);
    let cases: [(Alter<'_>, bool, Option<State>); 8] = [
        (&|_| {}, false, Some((true, true, false))),
        (&unready, false, Some((false, false, false))),
        (&unready, true, Some((true, false, false))),
        (&deleted, false, Some((false, true, true))),
        (&deleted, true, Some((true, true, true))),
        (&both, false, Some((false, false, true))),
        (&finished, true, None),
        (&unaddressed, true, None),
    ];
    for (change, publish, expected) in cases {
        let mut slices = Slices::default();
        slices.reconcile(
            &service(&json!({"publishNotReadyAddresses": publish})),
            &changed(change),
        );
        assert_eq!(slices.conditions("web-0"), expected, "published {publish}");
    }
    // Each of these changes is one write of one slice.
    let service = service(&json!({}));
    let mut slices = Slices::default();
    slices.reconcile(&service, &changed(&|_| {}));
    for change in [&unready as Alter<'_>, &|_| {}, &deleted, &both] {
        assert_eq!(slices.reconcile(&service, &changed(change)), (0, 1, 0));
    }
}

#[test]
fn pods_with_other_ports_have_slices_of_their_own() {
    let service = service(&json!({"ports": [
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
        {"name": "admin", "port": 81, "targetPort": "admin", "protocol": "TCP"},
        {"name": "udp", "port": 53, "protocol": "UDP"},
    ]}));
    let mut slices = Slices::default();
    assert_eq!(slices.reconcile(&service, &pods(0..4)), (2, 0, 0));
    let mut ports: Vec<Vec<(&str, Option<u16>)>> = slices
        .list
        .iter()
        .map(|slice| slice.ports.iter().map(|port| (&*port.name, port.port)).collect())
        .collect();
    ports.sort();
    // No pod has a port called "admin", so no slice has it.
    assert_eq!(
        ports,
        [
            [("http", Some(8080)), ("udp", Some(53))],
            [("http", Some(8081)), ("udp", Some(53))],
        ]
    );
    assert_eq!(slices.sizes(), [2, 2]);
    // Another target: the slices stay and say so.
    let moved = service_with_target(9000);
    assert_eq!(slices.reconcile(&moved, &pods(0..4)), (0, 1, 1));
    assert_eq!(slices.sizes(), [4]);
}

fn service_with_target(port: u16) -> Arc<Service> {
    service(&json!({"ports": [{"name": "http", "port": 80, "targetPort": port, "protocol": "TCP"}]}))
}

#[test]
fn headless_services_need_no_ports_and_name_their_pods() {
    let service = service(&json!({"clusterIP": "None", "ports": null}));
    let mut named = pod_value(0);
    named["spec"]["hostname"] = "first".into();
    named["spec"]["subdomain"] = "web".into();
    let mut elsewhere = pod_value(1);
    elsewhere["spec"]["hostname"] = "second".into();
    elsewhere["spec"]["subdomain"] = "other".into();
    let mut slices = Slices::default();
    assert_eq!(
        slices.reconcile(&service, &[from_json(named), from_json(elsewhere)]),
        (1, 0, 0)
    );
    let slice = &slices.list[0];
    let names: Vec<Option<&str>> = slice
        .endpoints
        .iter()
        .map(|endpoint| endpoint.hostname.as_deref())
        .collect();
    assert_eq!(names, [Some("first"), None]);
    assert_eq!(slice.metadata.label(HEADLESS), Some(""));
    assert_eq!(slice.endpoints[0].node_name.as_deref(), Some("pi-1"));
    assert_eq!(slice.endpoints[0].zone.as_deref(), Some("kitchen"));
}

#[test]
fn each_family_of_the_service_has_its_slices() {
    let mut pod = pod_value(0);
    pod["status"]["podIPs"] = json!([{"ip": "100.64.0.1"}, {"ip": "fd00::0:1"}]);
    let pods = [from_json(pod)];
    let mut slices = Slices::default();
    assert_eq!(
        slices.reconcile(&service(&json!({"ipFamilies": ["IPv4", "IPv6"]})), &pods),
        (2, 0, 0)
    );
    let mut addresses: Vec<&str> = slices
        .list
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .map(|endpoint| &*endpoint.addresses[0])
        .collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["100.64.0.1", "fd00::1"]);
    // A family that the Service loses takes its slice along.
    assert_eq!(
        slices.reconcile(&service(&json!({"ipFamilies": ["IPv4"]})), &pods),
        (0, 0, 1)
    );
}

#[test]
fn labels_follow_the_service_and_foreign_slices_are_not_reused() {
    let mut slices = Slices::default();
    let first = service(&json!({}));
    slices.reconcile(&first, &pods(0..1));
    assert_eq!(slices.list[0].metadata.label("team"), Some("a"));
    assert_eq!(slices.list[0].metadata.label(SERVICE_NAME), Some("web"));
    assert_eq!(slices.list[0].metadata.label(MANAGED_BY), Some(MANAGER));
    let relabelled = from_json::<Service>(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {SERVICE_NAME: "other", "team": "b"}},
        "spec": {"clusterIP": "100.65.0.9", "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    }));
    assert_eq!(slices.reconcile(&relabelled, &pods(0..1)), (0, 1, 0));
    assert_eq!(slices.list[0].metadata.label("team"), Some("b"));
    assert_eq!(slices.list[0].metadata.label(SERVICE_NAME), Some("web"));
    // The Service was deleted and made again: the garbage collector has the old slices, and the new one gets its own.
    let again = from_json::<Service>(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "t", "labels": {"team": "b"}},
        "spec": {"clusterIP": "100.65.0.9", "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    }));
    assert_eq!(slices.reconcile(&again, &pods(0..1)), (1, 0, 1));
}

#[test]
fn pods_of_a_node_that_was_removed_are_left_out() {
    let mut pod = pod_value(0);
    pod["spec"]["nodeName"] = "gone".into();
    let pods = [from_json(pod)];
    for (publish, expected) in [(false, None), (true, Some((true, true, false)))] {
        let mut slices = Slices::default();
        slices.reconcile(&service(&json!({"publishNotReadyAddresses": publish})), &pods);
        assert_eq!(slices.conditions("web-0"), expected);
    }
}

#[test]
fn an_endpoint_that_is_in_two_slices_stays_in_one() {
    let service = service(&json!({}));
    let mut slices = Slices::default();
    slices.reconcile(&service, &pods(0..3));
    let body = Body {
        family: Family::IPv4,
        labels: labels(&service),
        annotations: Pairs::default(),
        ports: slices.list[0].ports.to_vec(),
        endpoints: slices.list[0].endpoints[..1].to_vec(),
    };
    slices.write(&body, None);
    slices.reconcile(&service, &pods(0..3));
    assert_eq!(slices.sizes().iter().sum::<usize>(), 3);
}

#[test]
fn every_history_of_pods_ends_in_exactly_their_endpoints() {
    // A small generator of our own, so that a failure can be run again.
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let service = service(&json!({"ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}));
    let mut slices = Slices::default();
    for round in 0..60 {
        let keep = random(10);
        let numbers: Vec<usize> = (0..300).filter(|_| random(10) < keep).collect();
        let pods = pods(numbers.iter().copied());
        slices.reconcile(&service, &pods);
        let mut present: Vec<String> = slices
            .list
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| endpoint.addresses[0].to_string())
            .collect();
        let mut wanted: Vec<String> = pods.iter().map(|pod| pod.addresses[0].to_string()).collect();
        present.sort();
        wanted.sort();
        assert_eq!(present, wanted, "round {round}");
        assert!(slices.sizes().iter().all(|size| *size <= PER_SLICE));
        assert_eq!(slices.reconcile(&service, &pods), (0, 0, 0), "round {round} is settled");
    }
}

#[test]
fn what_is_written_is_what_kubernetes_writes() {
    let service = service(&json!({}));
    let actions = plan(&Observed {
        service: &service,
        pods: &pods(0..1),
        slices: &[],
        node: &node,
    });
    let owned = Owned {
        key: &Key::new("default", "web"),
        owner: Owner::controller(&SERVICES, &service.metadata),
        terminating: false,
        trigger: Some("2026-01-02T03:04:05Z".into()),
    };
    assert_eq!(
        crate::endpointslices::writer::creation(&owned, &actions.create[0]),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": "web-",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", "team": "a"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s", "controller": true, "blockOwnerDeletion": true}],
            },
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["100.64.0.1"],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0", "uid": "p0"},
                "nodeName": "pi-1",
                "zone": "kitchen",
            }],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })
    );
}
