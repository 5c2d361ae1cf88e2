//! Through kube-rs, as the controllers use it: an in-process client on the router.

use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::support::{Cluster, LIMIT, config_map, deployment, pod};

fn client(cluster: &Cluster) -> Client {
    Client::new(cluster.admin().router, "default")
}

#[tokio::test]
async fn typed_client_creates_reads_changes_and_deletes() {
    let cluster = Cluster::start().await;
    let client = client(&cluster);
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let object: Deployment = serde_json::from_value(deployment("web")).unwrap();
    let created = deployments.create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(created.spec.as_ref().unwrap().replicas, Some(3));
    let error = deployments.create(&PostParams::default(), &object).await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.is_already_exists()),
        "{error:?}"
    );
    let patch = Patch::Strategic(json!({"spec": {"replicas": 4}}));
    deployments.patch("web", &PatchParams::default(), &patch).await.unwrap();
    let stale = deployments
        .replace("web", &PostParams::default(), &created)
        .await
        .unwrap_err();
    assert!(
        matches!(&stale, kube::Error::Api(status) if status.is_conflict()),
        "{stale:?}"
    );
    let scale = deployments.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(4));
    let status = Patch::Merge(json!({"status": {"replicas": 4, "observedGeneration": 2}}));
    let reported = deployments
        .patch_status("web", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(reported.status.unwrap().observed_generation, Some(2));
    assert_eq!(reported.metadata.generation, Some(2));
    let list = deployments.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let deleted = deployments.delete("web", &DeleteParams::default()).await.unwrap();
    assert!(deleted.right().unwrap().is_success());
    assert!(deployments.get_opt("web").await.unwrap().is_none());
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(
        namespaces
            .list_metadata(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        4
    );
}

async fn follow(cluster: &Cluster, config: watcher::Config) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client(cluster));
    let create = |name: &str| serde_json::from_value::<ConfigMap>(config_map(name)).unwrap();
    maps.create(&PostParams::default(), &create("a")).await.unwrap();
    let events = watcher(maps.clone(), config).touched_objects();
    pin_mut!(events);
    let mut next = async || {
        let event = tokio::time::timeout(LIMIT, events.try_next())
            .await
            .expect("an event in time");
        event.unwrap().unwrap().name_any()
    };
    assert_eq!(next().await, "a");
    maps.create(&PostParams::default(), &create("b")).await.unwrap();
    assert_eq!(next().await, "b");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(next().await, "a");
}

#[tokio::test]
async fn watcher_follows_by_list_and_watch() {
    follow(&Cluster::start().await, watcher::Config::default().page_size(1)).await;
}

#[tokio::test]
async fn watcher_follows_by_a_streamed_list() {
    follow(&Cluster::start().await, watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn controllers_users_do_their_work_and_no_more() {
    let cluster = Cluster::start().await;
    let user = |name: &str| Client::new(cluster.user(name, &[]).router, "default");
    let pods: Api<Pod> = Api::default_namespaced(user("system:serviceaccount:kube-system:replicaset-controller"));
    let object: Pod = serde_json::from_value(pod("a")).unwrap();
    pods.create(&PostParams::default(), &object).await.unwrap();
    let scheduler = user("system:kube-scheduler");
    let bindable: Api<Pod> = Api::default_namespaced(scheduler.clone());
    let error = bindable.create(&PostParams::default(), &object).await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.is_forbidden()),
        "{error:?}"
    );
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "pi-1"}});
    let _: serde_json::Value = bindable
        .create_subresource("binding", "a", &PostParams::default(), &binding)
        .await
        .unwrap();
    let nodes: Api<Node> = Api::all(scheduler);
    nodes.list(&ListParams::default()).await.unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(user("system:kube-scheduler"));
    let error = secrets.list(&ListParams::default()).await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.is_forbidden()),
        "{error:?}"
    );
}
