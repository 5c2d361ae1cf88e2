//! What stands behind Services, and where those of type LoadBalancer are reached.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::THREE;
use crate::cluster::{Api, Cluster, is_terminating, text};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"team": "a"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

async fn slices(api: &Api, service: &str) -> Vec<Value> {
    api.list(&format!(
        "{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
    ))
    .await
}

/// Ready, serving, terminating of each endpoint, by pod.
fn conditions(slices: &[Value]) -> BTreeMap<String, (bool, bool, bool)> {
    slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
        .map(|endpoint| {
            let is = |name: &str| endpoint["conditions"][name].as_bool().unwrap();
            (
                text(&endpoint["targetRef"]["name"]).to_owned(),
                (is("ready"), is("serving"), is("terminating")),
            )
        })
        .collect()
}

/// Names and revisions: the same as before if nothing was written.
fn revisions(objects: &[Value]) -> BTreeSet<(String, String)> {
    objects
        .iter()
        .map(|object| {
            let field = |name: &str| text(&object["metadata"][name]).to_owned();
            (field("name"), field("resourceVersion"))
        })
        .collect()
}

/// Waits until a Service has that many endpoints, all ready.
async fn ready(cluster: &Cluster, service: &str, count: usize) -> Vec<Value> {
    cluster
        .until(&format!("{service} has {count} ready endpoints"), async |api| {
            let slices = slices(api, service).await;
            let known = conditions(&slices);
            (known.len() == count && known.values().all(|state| *state == (true, true, false))).then_some(slices)
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_a_service_are_its_pods() {
    let cluster = Cluster::start(&THREE).await;
    cluster
        .api
        .create(SERVICES, &service("web", &json!({"selector": {"app": "web"}})))
        .await;
    let placeholder = cluster
        .until("a Service without pods has an empty slice", async |api| {
            slices(api, "web").await.pop()
        })
        .await;
    assert_eq!(placeholder["endpoints"].as_array().map(Vec::len), Some(0));
    assert_eq!(placeholder["metadata"]["labels"]["team"], "a");
    assert_eq!(
        placeholder["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );

    cluster.deploy("web", 3, json!({})).await;
    let found = ready(&cluster, "web", 3).await;
    assert_eq!(found.len(), 1);
    let slice = &found[0];
    assert_eq!(slice["metadata"]["name"], placeholder["metadata"]["name"]);
    assert_eq!(
        (&slice["addressType"], &slice["ports"]),
        (
            &json!("IPv4"),
            &json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
        )
    );
    let pods = cluster.api.pods().await;
    for endpoint in slice["endpoints"].as_array().unwrap() {
        let pod = pods
            .iter()
            .find(|pod| pod["metadata"]["uid"] == endpoint["targetRef"]["uid"])
            .unwrap();
        assert_eq!(endpoint["addresses"], json!([pod["status"]["podIPs"][0]["ip"]]));
        assert_eq!(endpoint["nodeName"], pod["spec"]["nodeName"]);
    }
    let old = cluster
        .until("the older form has them too", async |api| {
            let old = api.get(&format!("{ENDPOINTS}/web")).await?;
            (old["subsets"][0]["addresses"].as_array()?.len() == 3).then_some(old)
        })
        .await;
    assert_eq!(
        old["subsets"][0]["ports"],
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
    );
    assert_eq!(
        old["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"],
        "endpoint-controller"
    );

    cluster
        .api
        .delete(&format!("{SERVICES}/web"), &json!({"propagationPolicy": "Background"}))
        .await;
    cluster
        .until("both go with the Service", async |api| {
            let gone = slices(api, "web").await.is_empty() && api.get(&format!("{ENDPOINTS}/web")).await.is_none();
            gone.then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_and_deletion_of_a_pod_show_in_its_endpoint() {
    let cluster = Cluster::start(&THREE).await;
    cluster
        .api
        .create(SERVICES, &service("web", &json!({"selector": {"app": "web"}})))
        .await;
    cluster.deploy("web", 2, json!({})).await;
    ready(&cluster, "web", 2).await;
    let pods = cluster.api.pods().await;
    let name = text(&pods[0]["metadata"]["name"]).to_owned();
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let state = async |expected: Option<(bool, bool, bool)>| {
        cluster
            .until(&format!("the endpoint is {expected:?}"), async |api| {
                let known = conditions(&slices(api, "web").await);
                (known.get(&name).copied() == expected).then_some(())
            })
            .await;
    };
    let annotate = async |annotations: Value| {
        cluster
            .api
            .merge(&path, &json!({"metadata": {"annotations": annotations}}))
            .await;
    };
    annotate(json!({"test/ready": "false"})).await;
    state(Some((false, false, false))).await;
    cluster
        .until("the older form calls it not ready", async |api| {
            let old = api.get(&format!("{ENDPOINTS}/web")).await?;
            (old["subsets"][0]["notReadyAddresses"][0]["targetRef"]["name"] == *name).then_some(())
        })
        .await;
    annotate(json!({"test/ready": null, "test/lingers": "true"})).await;
    state(Some((true, true, false))).await;
    // It is being stopped: no new connections, but it still serves those that it has.
    cluster.api.delete(&path, &json!({})).await;
    state(Some((false, true, true))).await;
    annotate(json!({"test/ready": "false"})).await;
    state(Some((false, false, true))).await;
    annotate(json!({"test/lingers": null})).await;
    state(None).await;
    ready(&cluster, "web", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_endpoints_are_in_slices_of_a_hundred_and_only_what_changes_is_written() {
    let mut cluster = Cluster::start(&THREE).await;
    cluster
        .api
        .create(SERVICES, &service("web", &json!({"selector": {"app": "web"}})))
        .await;
    cluster.deploy("web", 130, json!({})).await;
    let found = ready(&cluster, "web", 130).await;
    let sizes: Vec<usize> = found
        .iter()
        .map(|slice| slice["endpoints"].as_array().unwrap().len())
        .collect();
    assert!(sizes.len() >= 2 && sizes.iter().all(|size| *size <= 100), "{sizes:?}");

    // Everything that the older form was to learn has arrived, so that nothing is under way any more.
    cluster
        .until("the older form has them all", async |api| {
            let old = api.get(&format!("{ENDPOINTS}/web")).await?;
            (old["subsets"][0]["addresses"].as_array()?.len() == 130).then_some(())
        })
        .await;
    let before = revisions(&slices(&cluster.api, "web").await);
    let old = revisions(&cluster.api.list(ENDPOINTS).await);
    // A restart finds everything in order; the second Service shows that the controllers are at work again.
    cluster.restart_controllers().await;
    cluster
        .api
        .create(SERVICES, &service("second", &json!({"selector": {"app": "nothing"}})))
        .await;
    cluster
        .until("the second Service is taken care of", async |api| {
            let known = api.get(&format!("{ENDPOINTS}/second")).await.is_some();
            (known && !slices(api, "second").await.is_empty()).then_some(())
        })
        .await;
    assert_eq!(revisions(&slices(&cluster.api, "web").await), before);
    assert!(revisions(&cluster.api.list(ENDPOINTS).await).is_superset(&old));

    // One pod's readiness is one slice's change.
    let pods = cluster.api.pods().await;
    let name = text(&pods[0]["metadata"]["name"]).to_owned();
    cluster
        .api
        .merge(
            &format!("/api/v1/namespaces/default/pods/{name}"),
            &json!({"metadata": {"annotations": {"test/ready": "false"}}}),
        )
        .await;
    let after = cluster
        .until("it is not ready", async |api| {
            let slices = slices(api, "web").await;
            let unready = conditions(&slices).get(&name) == Some(&(false, false, false));
            unready.then(|| revisions(&slices))
        })
        .await;
    assert_eq!(before.difference(&after).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_somebody_made_are_mirrored() {
    let cluster = Cluster::start(&[]).await;
    cluster.api.create(SERVICES, &service("db", &json!({}))).await;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"name": "http", "port": 3306}]}],
    });
    cluster.api.create(ENDPOINTS, &endpoints).await;
    let addresses = |slices: &[Value]| -> Vec<(String, bool)> {
        slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
            .map(|endpoint| {
                (
                    text(&endpoint["addresses"][0]).to_owned(),
                    endpoint["conditions"]["ready"].as_bool().unwrap(),
                )
            })
            .collect()
    };
    let mirrored = async |expected: &[(&str, bool)]| -> Vec<Value> {
        let expected: Vec<(String, bool)> = expected.iter().map(|(ip, ready)| ((*ip).to_owned(), *ready)).collect();
        cluster
            .until(&format!("mirrored: {expected:?}"), async |api| {
                let slices = slices(api, "db").await;
                (addresses(&slices) == expected).then_some(slices)
            })
            .await
    };
    let found = mirrored(&[("192.0.2.1", true), ("192.0.2.2", false)]).await;
    assert_eq!(
        found[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    assert_eq!(found[0]["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    let path = format!("{ENDPOINTS}/db");
    let subsets = json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"name": "http", "port": 3307}]}]);
    cluster.api.merge(&path, &json!({"subsets": subsets})).await;
    mirrored(&[("192.0.2.9", true)]).await;
    let skip = |value: Value| json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": value}}});
    cluster.api.merge(&path, &skip("true".into())).await;
    mirrored(&[]).await;
    cluster.api.merge(&path, &skip(Value::Null)).await;
    mirrored(&[("192.0.2.9", true)]).await;
    // With the Service go its Endpoints, and with them the mirror.
    cluster.api.delete(&format!("{SERVICES}/db"), &json!({})).await;
    cluster
        .until("nothing is left", async |api| {
            (slices(api, "db").await.is_empty() && api.get(&path).await.is_none()).then_some(())
        })
        .await;
}

/// Address, node and name of a Service of type LoadBalancer.
async fn place(api: &Api, service: &str) -> Option<(String, String, String)> {
    let service = api.get(&format!("{SERVICES}/{service}")).await?;
    let annotation = |name: &str| service["metadata"]["annotations"][name].as_str().map(str::to_owned);
    Some((
        service["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()?
            .to_owned(),
        annotation("minidc.dev/announced-by")?,
        annotation("minidc.dev/local-name").unwrap_or_default(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_type_load_balancer_has_the_address_of_a_node_that_is_well() {
    let mut cluster = Cluster::start(&THREE).await;
    let balanced = json!({"type": "LoadBalancer", "selector": {"app": "web"}});
    cluster.deploy("web", 1, json!({})).await;
    cluster.rolled_out("web").await;
    for name in ["web", "pi-2", "third"] {
        cluster.api.create(SERVICES, &service(name, &balanced)).await;
    }
    let placed = async |name: &str| {
        cluster
            .until(&format!("{name} has a place"), async |api| place(api, name).await)
            .await
    };
    let mut nodes = BTreeSet::new();
    for name in ["web", "pi-2", "third"] {
        let (address, node, local) = placed(name).await;
        let known = cluster.api.get(&format!("/api/v1/nodes/{node}")).await.unwrap();
        assert_eq!(known["status"]["addresses"][0]["address"], address);
        // The name of a node is nobody else's.
        assert_eq!(local, if name == "pi-2" { "" } else { name });
        nodes.insert(node);
    }
    // All want port 80, and there are three nodes.
    assert_eq!(nodes.len(), 3);
    cluster.api.create(SERVICES, &service("fourth", &balanced)).await;
    cluster
        .until("the others are told why they do not get what they want", async |api| {
            let fourth = api.events("Service", "fourth").await.contains(&(
                "SyncLoadBalancerFailed".to_owned(),
                "Error syncing load balancer: no node that is ready has port 80/TCP free".to_owned(),
            ));
            let second = api.events("Service", "pi-2").await.contains(&(
                "LocalNameReserved".to_owned(),
                "pi-2.local is not announced: node pi-2 has it".to_owned(),
            ));
            (fourth && second).then_some(())
        })
        .await;
    assert!(place(&cluster.api, "fourth").await.is_none());

    // One of them is no LoadBalancer any more: all that it had goes, and the one that waited gets its place.
    cluster
        .api
        .merge(&format!("{SERVICES}/third"), &json!({"spec": {"type": "ClusterIP"}}))
        .await;
    placed("fourth").await;
    cluster
        .until("nothing is left of its place", async |api| {
            let third = api.get(&format!("{SERVICES}/third")).await?;
            let annotations = &third["metadata"]["annotations"];
            let gone = third["status"]["loadBalancer"]["ingress"].is_null()
                && annotations["minidc.dev/announced-by"].is_null()
                && annotations["minidc.dev/local-name"].is_null();
            gone.then_some(())
        })
        .await;

    // Its node is unplugged: it moves to one that has the port free, and stays there.
    cluster.api.delete(&format!("{SERVICES}/fourth"), &json!({})).await;
    let (_, lost, _) = placed("web").await;
    cluster.unplug(&lost);
    let (_, next, _) = cluster
        .until("web has moved", async |api| {
            place(api, "web").await.filter(|(_, node, _)| *node != lost)
        })
        .await;
    cluster.plug(&lost).await;
    cluster
        .until("the node is back", async |api| {
            let node = api.get(&format!("/api/v1/nodes/{lost}")).await?;
            let pods = api.pods().await;
            (crate::cluster::is_ready(&node) && !pods.iter().any(is_terminating)).then_some(())
        })
        .await;
    let (_, node, name) = place(&cluster.api, "web").await.unwrap();
    assert_eq!((node, name), (next, "web".to_owned()));
}
