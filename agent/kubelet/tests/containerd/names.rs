//! What a pod is called and how it asks for names.

use serde_json::json;

use crate::client::run;
use crate::cluster::Cluster;
use crate::node::inside;
use crate::{SERVE, script, with_shell};

#[test]
fn container_sees_the_names_its_pod_asks_for() {
    inside("names::container_sees_the_names_its_pod_asks_for", |node| async move {
        let cluster = Cluster::new();
        cluster.set_dns("100.65.0.10");
        with_shell(&cluster);
        let running = cluster.start(&node);
        cluster.pod(
            "web",
            json!({"hostname": "db", "subdomain": "data", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["shop", "till"]}],
            "dnsConfig": {"searches": ["example.org"], "options": [{"name": "ndots", "value": "2"}]},
            "containers": [script("web", SERVE)]}),
        );
        let own = json!({"nameservers": ["192.0.2.1"]});
        let mut free = script("free", SERVE);
        free["env"] = json!([{"name": "API", "value": "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT_HTTPS)"}]);
        cluster.pod(
            "free",
            json!({"dnsPolicy": "None", "dnsConfig": own, "hostNetwork": true, "containers": [free],
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["shop"]}]}),
        );
        let pod = cluster.running("web").await;
        cluster.running("free").await;
        let handle = &running.handle;
        let web = async |text: &str| run(handle, "web", "web", &["sh", "-c", text]).await;
        let free = async |text: &str| run(handle, "free", "free", &["sh", "-c", text]).await;

        let resolv_conf = web("cat /etc/resolv.conf").await;
        assert!(resolv_conf.contains("nameserver 100.65.0.10\n"), "{resolv_conf}");
        assert!(
            resolv_conf.contains("search default.svc.cluster.local svc.cluster.local cluster.local "),
            "{resolv_conf}"
        );
        assert!(resolv_conf.contains(" example.org"), "{resolv_conf}");
        assert!(resolv_conf.contains("options ndots:2"), "{resolv_conf}");
        assert_eq!(
            web("hostname; echo $HOSTNAME").await,
            "db.data.default.svc.cluster.local\n".repeat(2)
        );
        let hosts = web("cat /etc/hosts").await;
        let own = format!(
            "{}\tdb.data.default.svc.cluster.local\tdb\n",
            pod["status"]["podIP"].as_str().unwrap()
        );
        assert!(hosts.contains(&own), "{hosts}");
        assert!(
            hosts.ends_with("# Entries added by HostAliases.\n10.1.2.3\tshop\ttill\n"),
            "{hosts}"
        );

        assert_eq!(free("cat /etc/resolv.conf").await, "nameserver 192.0.2.1\n");
        assert_eq!(free("hostname").await, "test-node\n");
        let hosts = free("cat /etc/hosts").await;
        assert!(
            hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"),
            "{hosts}"
        );
        assert!(hosts.ends_with("10.1.2.3\tshop\n"), "{hosts}");
        assert_eq!(free("echo $API").await, "100.65.0.1:443\n");
        running.stop().await;
    });
}
