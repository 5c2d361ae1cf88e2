//! Addresses and ports of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use minidc_apiserver::{ApiServer, NoNodes, Options, memory_prefixes};
use minidc_store::{Op, Store, When};
use serde_json::{Value, json};

use crate::support::{Client, Cluster};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    if service["spec"]["ports"].is_null() && service["spec"]["type"] != "ExternalName" {
        service["spec"]["ports"] = json!([{"port": 80}]);
    }
    service
}

async fn create(client: &Client, name: &str, spec: &Value) -> Value {
    client.post(SERVICES, &service(name, spec)).await.expect(201)
}

/// Names of all claimed addresses, and who has them.
async fn claims(client: &Client) -> BTreeMap<String, String> {
    let list = client.get(ADDRESSES).await.expect(200);
    let claims = list["items"].as_array().into_iter().flatten().map(|item| {
        let parent = &item["spec"]["parentRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&item["metadata"]["name"]), text(&parent["name"]))
    });
    claims.collect()
}

fn node_ports(service: &Value) -> Vec<i64> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| port["nodePort"].as_i64()).collect()
}

fn server_with(store: &Store, range: &str, directory: &tempfile::TempDir) -> ApiServer {
    let options = Options {
        images: directory.path().join("images"),
        default_toleration_seconds: 3,
        nodes: std::sync::Arc::new(NoNodes),
        cluster: "test".to_owned(),
        service_range: range.to_owned(),
    };
    ApiServer::new(store.clone(), options)
}

fn store() -> Store {
    Store::in_memory(minidc_store::Options {
        memory_prefixes: memory_prefixes(),
        ..minidc_store::Options::default()
    })
}

fn admin_of(server: &ApiServer) -> Client {
    Client {
        router: server.router_as("minidc-admin", &["system:masters"]),
    }
}

#[tokio::test]
async fn service_gets_an_address_of_its_own_and_gives_it_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let web = create(&admin, "web", &json!({"selector": {"app": "web"}})).await;
    let address = web["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("100.65."), "{address}");
    assert_eq!(web["spec"]["clusterIPs"], json!([address]));
    assert_eq!(web["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(web["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(web["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(web["status"], json!({"loadBalancer": {}}));
    assert_eq!(claims(&admin).await.get(&address).map(String::as_str), Some("web"));
    let claim = admin.get(&format!("{ADDRESSES}/{address}")).await.expect(200);
    assert_eq!(claim["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    let asking = json!({"clusterIP": address});
    let refused = admin.post(SERVICES, &service("thief", &asking.clone())).await;
    assert_eq!(
        refused.message(),
        format!(
            "Service \"thief\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed to allocate IP {address}: provided IP is already allocated"
        )
    );
    refused.expect(422);
    admin.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(claims(&admin).await.get(&address), None);
    let heir = create(&admin, "heir", &asking).await;
    assert_eq!(heir["spec"]["clusterIP"], address.as_str());
}

#[tokio::test]
async fn headless_services_and_aliases_have_no_address() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let before = claims(&admin).await;
    let headless = create(&admin, "a", &json!({"clusterIP": "None", "selector": {"a": "b"}})).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let bare = create(&admin, "b", &json!({"clusterIP": "None"})).await;
    assert_eq!(bare["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let alias = create(
        &admin,
        "c",
        &json!({"type": "ExternalName", "externalName": "example.com"}),
    )
    .await;
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "internalTrafficPolicy"] {
        assert_eq!(alias["spec"].get(field), None, "{field}");
    }
    assert_eq!(claims(&admin).await, before);
}

#[tokio::test]
async fn node_ports_follow_the_type() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let both = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}
    ]);
    let made = create(&admin, "dns", &json!({"type": "NodePort", "ports": both})).await;
    let ports = node_ports(&made);
    assert!(ports.len() == 2 && ports[0] == ports[1], "{ports:?}");
    assert!((30_086..=32_767).contains(&ports[0]), "{ports:?}");
    let asked = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": ports[0]}]});
    let refused = admin.post(SERVICES, &service("b", &asked.clone())).await;
    assert_eq!(
        refused.message(),
        format!(
            "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {}: provided port is already allocated",
            ports[0]
        )
    );
    refused.expect(422);
    let path = format!("{SERVICES}/dns");
    let hidden = admin
        .merge(&path, &json!({"spec": {"type": "ClusterIP"}}))
        .await
        .expect(200);
    assert_eq!(node_ports(&hidden), [0; 0]);
    assert_eq!(hidden["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(hidden["spec"].get("externalTrafficPolicy"), None);
    create(&admin, "b", &asked).await;
    let shown = admin
        .merge(&path, &json!({"spec": {"type": "LoadBalancer"}}))
        .await
        .expect(200);
    assert!(!node_ports(&shown).contains(&ports[0]));
    assert_eq!(shown["spec"]["allocateLoadBalancerNodePorts"], true);
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let checked = admin.merge(&path, &local).await.expect(200);
    assert!(checked["spec"]["healthCheckNodePort"].as_i64().unwrap() >= 30_000);
}

#[tokio::test]
async fn replaced_service_keeps_what_it_was_given() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let written = service(
        "web",
        &json!({"type": "NodePort", "ports": [{"name": "http", "port": 80}]}),
    );
    let made = admin.post(SERVICES, &written).await.expect(201);
    let path = format!("{SERVICES}/web");
    let replaced = admin.put(&path, &written).await.expect(200);
    assert_eq!(replaced["spec"], made["spec"]);
    assert_eq!(
        replaced["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "nothing was written"
    );
    let moved = admin.merge(&path, &json!({"spec": {"clusterIP": "100.65.7.7"}})).await;
    assert_eq!(
        moved.message(),
        "Service \"web\" is invalid: spec.clusterIPs[0]: Invalid value: [\"100.65.7.7\"]: may not change once set"
    );
    moved.expect(422);
    assert!(
        !claims(&admin).await.contains_key("100.65.7.7"),
        "a refused change claims nothing"
    );
    let alias = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    admin.merge(&path, &alias).await.expect(200);
    assert!(!claims(&admin).await.values().any(|name| name == "web"));
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": "100.65.7.7"}});
    let back = admin.merge(&path, &back).await.expect(200);
    assert_eq!(back["spec"]["clusterIPs"], json!(["100.65.7.7"]));
}

#[tokio::test]
async fn dry_run_claims_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let before = claims(&admin).await;
    let tried = admin
        .post(
            &format!("{SERVICES}?dryRun=All"),
            &service("web", &json!({"type": "NodePort"})),
        )
        .await
        .expect(201);
    assert!(tried["spec"]["clusterIP"].is_string() && node_ports(&tried).len() == 1);
    assert_eq!(claims(&admin).await, before);
}

#[tokio::test]
async fn concurrent_services_never_share_an_address_or_port() {
    let directory = tempfile::tempdir().unwrap();
    let store = store();
    let server = server_with(&store, "10.9.0.0/26", &directory);
    server.bootstrap().await.unwrap();
    // A second server on the same store knows nothing of the first but what is stored.
    let servers = [
        admin_of(&server),
        admin_of(&server_with(&store, "10.9.0.0/26", &directory)),
    ];
    let creates = (0..80).map(|number| {
        let admin = servers[number % 2].clone();
        async move {
            let kind = if number % 3 == 0 { "ClusterIP" } else { "NodePort" };
            let made = service(&format!("s{number}"), &json!({"type": kind}));
            admin.post(SERVICES, &made).await
        }
    });
    let answers = futures::future::join_all(creates).await;
    let full = "Internal error occurred: failed to allocate a serviceIP: range is full";
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    let mut ports: BTreeSet<i64> = BTreeSet::new();
    for answer in answers {
        if answer.code == 500 {
            assert_eq!(answer.message(), full);
            continue;
        }
        let made = answer.expect(201);
        let address = made["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(addresses.insert(address), "{address} was given twice");
        for port in node_ports(&made) {
            assert!(ports.insert(port), "{port} was given twice");
        }
    }
    // Of 62 addresses the API and DNS have one each.
    assert_eq!(addresses.len(), 60);
    // Deletes and creates at once: again nobody gets what somebody has.
    let mixed = (0..60).map(|number| {
        let admin = servers[number % 2].clone();
        async move {
            admin.delete(&format!("{SERVICES}/s{number}")).await;
            admin
                .post(SERVICES, &service(&format!("t{number}"), &json!({"type": "NodePort"})))
                .await
        }
    });
    futures::future::join_all(mixed).await;
    let list = servers[0].get(SERVICES).await.expect(200);
    let items = list["items"].as_array().unwrap();
    let held: BTreeSet<&str> = items
        .iter()
        .map(|item| item["spec"]["clusterIP"].as_str().unwrap())
        .collect();
    assert_eq!(held.len(), items.len());
    let given: Vec<i64> = items.iter().flat_map(node_ports).collect();
    let distinct: BTreeSet<i64> = given.iter().copied().collect();
    assert_eq!(distinct.len(), given.len());
    // One claim per address in use, and that of DNS.
    let claimed = claims(&servers[0]).await;
    assert_eq!(claimed.len(), held.len() + 1);
    assert!(held.iter().all(|address| claimed.contains_key(*address)));
    let (stored, _) = store.list("minidc.dev/nodeports/");
    assert_eq!(stored.len(), distinct.len());
}

#[tokio::test]
async fn claims_outlive_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = || minidc_store::Options {
        memory_prefixes: memory_prefixes(),
        ..minidc_store::Options::default()
    };
    let store = Store::open(&path, options()).await.unwrap();
    let server = server_with(&store, "100.65.0.0/16", &directory);
    server.bootstrap().await.unwrap();
    let made = create(&admin_of(&server), "web", &json!({"type": "NodePort"})).await;
    drop(server);
    store.close().await;
    let store = Store::open(&path, options()).await.unwrap();
    let server = server_with(&store, "100.65.0.0/16", &directory);
    server.bootstrap().await.unwrap();
    let admin = admin_of(&server);
    let asked = json!({"clusterIP": made["spec"]["clusterIP"]});
    admin.post(SERVICES, &service("a", &asked)).await.expect(422);
    let asked = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_ports(&made)[0]}]});
    admin.post(SERVICES, &service("b", &asked)).await.expect(422);
}

#[tokio::test]
async fn kubernetes_service_leads_to_the_control_plane_and_comes_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{SERVICES}/kubernetes");
    let made = admin.get(&path).await.expect(200);
    assert_eq!(made["spec"]["clusterIP"], "100.65.0.1");
    assert_eq!(made["metadata"]["labels"]["component"], "apiserver");
    assert_eq!(
        made["spec"]["ports"],
        json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}])
    );
    let addresses = ["192.168.1.10".parse().unwrap(), "fe80::1".parse().unwrap()];
    cluster.server.publish_endpoints(&addresses, 7443).await.unwrap();
    let slice = admin.get(&format!("{SLICES}/kubernetes")).await.expect(200);
    assert_eq!(
        slice["endpoints"],
        json!([{"addresses": ["192.168.1.10"], "conditions": {"ready": true}}])
    );
    assert_eq!(slice["ports"][0]["port"], 7443);
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let old_form = admin.get(endpoints).await;
    assert_eq!(
        old_form.warnings(),
        ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""]
    );
    let old_form = old_form.expect(200);
    assert_eq!(old_form["subsets"][0]["addresses"], json!([{"ip": "192.168.1.10"}]));
    // Told again, nothing is written; told of no address, the last one stays.
    let revision = cluster.server.store().revision();
    cluster.server.publish_endpoints(&addresses, 7443).await.unwrap();
    cluster.server.publish_endpoints(&[], 7443).await.unwrap();
    assert_eq!(cluster.server.store().revision(), revision);
    cluster
        .server
        .publish_endpoints(&["10.0.0.5".parse().unwrap()], 7443)
        .await
        .unwrap();
    let moved = admin.get(&format!("{SLICES}/kubernetes")).await.expect(200);
    assert_eq!(moved["endpoints"][0]["addresses"], json!(["10.0.0.5"]));
    for gone in [path.as_str(), endpoints, &format!("{SLICES}/kubernetes")] {
        admin.delete(gone).await.expect(200);
        admin.get(gone).await.expect(200);
    }
    let again = admin.get(&path).await.expect(200);
    assert_eq!(again["spec"]["clusterIP"], "100.65.0.1");
    assert_eq!(again["spec"]["ports"][0]["targetPort"], 7443);
}

#[tokio::test]
async fn claims_in_use_and_the_range_stay() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let web = create(&admin, "web", &json!({})).await;
    let address = web["spec"]["clusterIP"].as_str().unwrap();
    for (path, user) in [
        (address, "service default/web"),
        ("100.65.0.10", "the DNS of the cluster"),
    ] {
        let refused = admin.delete(&format!("{ADDRESSES}/{path}")).await;
        assert!(
            refused.message().ends_with(&format!("the address is in use by {user}")),
            "{}",
            refused.message()
        );
        refused.expect(403);
    }
    let refused = admin
        .post(SERVICES, &service("dns", &json!({"clusterIP": "100.65.0.10"})))
        .await;
    refused.expect(422);
    // People may reserve an address, and free it.
    let reserved = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "100.65.9.9"},
        "spec": {"parentRef": {"group": "example.com", "resource": "gateways", "namespace": "default", "name": "edge"}}});
    admin.post(ADDRESSES, &reserved).await.expect(201);
    let wanting = service("edge", &json!({"clusterIP": "100.65.9.9"}));
    admin.post(SERVICES, &wanting).await.expect(422);
    admin.delete(&format!("{ADDRESSES}/100.65.9.9")).await.expect(200);
    admin.post(SERVICES, &wanting).await.expect(201);
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let range = admin.get(&format!("{ranges}/kubernetes")).await.expect(200);
    assert_eq!(range["spec"]["cidrs"], json!(["100.65.0.0/16"]));
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
    admin.delete(&format!("{ranges}/kubernetes")).await.expect(403);
    let another = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.0.0.0/24"]}});
    admin.post(ranges, &another).await.expect(403);
}

#[tokio::test]
async fn range_changes_only_while_nobody_has_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let store = store();
    for range in ["100.65.0.0/16", "100.80.0.0/16"] {
        let server = server_with(&store, range, &directory);
        server.bootstrap().await.unwrap();
        assert_eq!(server.service_range().as_deref(), Some(range));
        let made = admin_of(&server)
            .get(&format!("{SERVICES}/kubernetes"))
            .await
            .expect(200);
        assert_eq!(made["spec"]["clusterIP"], range.replace(".0/16", ".1"));
        let names: Vec<String> = claims(&admin_of(&server)).await.into_keys().collect();
        assert_eq!(names, [range.replace(".0/16", ".1"), range.replace(".0/16", ".10")]);
    }
    let server = server_with(&store, "100.80.0.0/16", &directory);
    let web = create(&admin_of(&server), "web", &json!({})).await;
    let server = server_with(&store, "100.90.0.0/16", &directory);
    server.bootstrap().await.unwrap();
    assert_eq!(server.service_range().as_deref(), Some("100.80.0.0/16"));
    let admin = admin_of(&server);
    let kept = admin.get(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(kept["spec"]["clusterIP"], web["spec"]["clusterIP"]);
    let range = admin
        .get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
        .await
        .expect(200);
    let message = range["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("the configured service-range 100.90.0.0/16 does not match 100.80.0.0/16"),
        "{message}"
    );
    for wrong in ["100.65.0.0", "100.65.0.0/30"] {
        let error = server_with(&store, wrong, &directory).bootstrap().await.unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

#[tokio::test]
async fn services_of_an_older_store_get_what_they_lack() {
    let directory = tempfile::tempdir().unwrap();
    let store = store();
    let put = |name: &str, spec: &Value| {
        let object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": {"loadBalancer": {}}})
        .to_string();
        let splice = object.find("\"metadata\":{").unwrap() + "\"metadata\":{".len();
        Op::Put {
            key: format!("core/services/default/{name}"),
            envelope: minidc_store::Envelope::new(object, splice as u32, Box::new([]), Box::new([])),
            when: When::Absent,
        }
    };
    let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]);
    let plain =
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": ports});
    let mut asked = plain.clone();
    asked["clusterIP"] = "100.65.4.4".into();
    store
        .commit(vec![put("plain", &plain), put("asked", &asked), put("twin", &asked)])
        .await
        .unwrap();
    let server = server_with(&store, "100.65.0.0/16", &directory);
    server.bootstrap().await.unwrap();
    let admin = admin_of(&server);
    let plain = admin.get(&format!("{SERVICES}/plain")).await.expect(200);
    let address = plain["spec"]["clusterIP"].as_str().unwrap();
    let asked = admin.get(&format!("{SERVICES}/asked")).await.expect(200);
    assert_eq!(asked["spec"]["clusterIPs"], json!(["100.65.4.4"]));
    let claimed = claims(&admin).await;
    assert_eq!(claimed.get(address).map(String::as_str), Some("plain"));
    assert_eq!(
        claimed.get("100.65.4.4").map(String::as_str),
        Some("asked"),
        "the twin does not get it"
    );
    // A claim that nobody has does not outlive a start.
    let before = claimed.len();
    let stray = store.get(&format!("networking.k8s.io/ipaddresses//{address}")).unwrap();
    let stray = Op::Put {
        key: "networking.k8s.io/ipaddresses//100.65.5.5".to_owned(),
        envelope: (*stray.envelope).clone(),
        when: When::Absent,
    };
    store.commit(vec![stray]).await.unwrap();
    server.bootstrap().await.unwrap();
    assert_eq!(claims(&admin).await.len(), before);
}

#[tokio::test]
async fn service_held_by_a_finalizer_keeps_its_address_until_it_is_gone() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut held = service("web", &json!({"type": "NodePort"}));
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let made = admin.post(SERVICES, &held).await.expect(201);
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let path = format!("{SERVICES}/web");
    admin.delete(&path).await.expect(200);
    assert!(claims(&admin).await.contains_key(address));
    admin
        .merge(&path, &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    admin.get(&path).await.expect(404);
    assert!(!claims(&admin).await.contains_key(address));
    assert_eq!(cluster.server.store().list("minidc.dev/nodeports/").0.len(), 0);
}
