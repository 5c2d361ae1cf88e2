//! Variables by which a container finds Services: `WEB_SERVICE_HOST` and those of Docker links, by
//! `pkg/kubelet/envvars` in Kubernetes.

use k8s_openapi::api::core::v1::Pod;

use crate::surroundings::{ServiceAddress, Surroundings};

/// The Service that every pod is told of, and its namespace.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// The variables of a pod. With `enableServiceLinks: false` only those of the API.
pub(crate) fn variables(surroundings: &dyn Surroundings, pod: &Pod) -> Vec<(String, String)> {
    let links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut services = if links {
        surroundings.services(namespace)
    } else {
        Vec::new()
    };
    // A Service of that name in the pod's own namespace counts before the API's.
    if !services.iter().any(|service| service.name == MASTER.1) {
        let all = surroundings.services(MASTER.0).into_iter();
        services.extend(all.filter(|service| service.name == MASTER.1));
    }
    services.iter().flat_map(of_service).collect()
}

fn of_service(service: &ServiceAddress) -> Vec<(String, String)> {
    let (name, address) = (variable_name(&service.name), service.address.to_string());
    let Some(first) = service.ports.first() else {
        return Vec::new();
    };
    let mut found = vec![
        (format!("{name}_SERVICE_HOST"), address.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    let named = service.ports.iter().filter(|port| !port.name.is_empty());
    found.extend(named.map(|port| {
        let port_name = variable_name(&port.name);
        (format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string())
    }));
    let host = if service.address.is_ipv6() {
        format!("[{address}]")
    } else {
        address.clone()
    };
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = port.protocol.to_lowercase();
        let url = format!("{protocol}://{host}:{}", port.port);
        let link = format!("{name}_PORT_{}_{}", port.port, port.protocol);
        if index == 0 {
            found.push((format!("{name}_PORT"), url.clone()));
        }
        found.extend([
            (format!("{link}_PROTO"), protocol),
            (format!("{link}_PORT"), port.port.to_string()),
            (format!("{link}_ADDR"), address.clone()),
            (link, url),
        ]);
    }
    found
}

fn variable_name(name: &str) -> String {
    let name = name.replace(['-', '.'], "_").to_uppercase();
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use serde_json::json;

    use super::*;
    use crate::surroundings::ServicePort;

    struct Two;

    fn service(name: &str, address: &str, ports: &[(&str, u16, &'static str)]) -> ServiceAddress {
        ServiceAddress {
            name: name.into(),
            address: address.parse().unwrap(),
            ports: ports
                .iter()
                .map(|(name, port, protocol)| ServicePort {
                    name: (*name).to_owned(),
                    port: *port,
                    protocol,
                })
                .collect(),
        }
    }

    impl Surroundings for Two {
        fn services(&self, namespace: &str) -> Vec<ServiceAddress> {
            match namespace {
                "default" => vec![
                    service("kubernetes", "100.65.0.1", &[("https", 443, "TCP")]),
                    service("other", "100.65.0.7", &[("", 80, "TCP")]),
                ],
                _ => vec![service(
                    "my-db",
                    "100.65.0.8",
                    &[("sql", 5432, "TCP"), ("stats", 99, "UDP")],
                )],
            }
        }

        fn withdrawn(&self, _namespace: &str, _pod: &str) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    fn told(links: bool) -> Vec<String> {
        let pod = json!({"metadata": {"namespace": "shop"}, "spec": {"containers": [], "enableServiceLinks": links}});
        let pod = serde_json::from_value(pod).unwrap();
        let mut found: Vec<_> = variables(&Two, &pod)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        found.sort();
        found
    }

    const API: [&str; 7] = [
        "KUBERNETES_PORT=tcp://100.65.0.1:443",
        "KUBERNETES_PORT_443_TCP=tcp://100.65.0.1:443",
        "KUBERNETES_PORT_443_TCP_ADDR=100.65.0.1",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_SERVICE_HOST=100.65.0.1",
        "KUBERNETES_SERVICE_PORT=443",
    ];

    #[test]
    fn pod_is_told_of_the_services_of_its_namespace_and_of_the_api() {
        let found = told(true);
        let has = |line: &&str| found.iter().any(|known| known == line);
        assert!(API.iter().all(has), "{found:#?}");
        for line in [
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "MY_DB_SERVICE_HOST=100.65.0.8",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_SQL=5432",
            "MY_DB_SERVICE_PORT_STATS=99",
            "MY_DB_PORT=tcp://100.65.0.8:5432",
            "MY_DB_PORT_99_UDP=udp://100.65.0.8:99",
            "MY_DB_PORT_99_UDP_PROTO=udp",
        ] {
            assert!(has(&line), "{line} in {found:#?}");
        }
        assert!(!found.iter().any(|line| line.starts_with("OTHER")), "{found:#?}");
    }

    #[test]
    fn without_links_only_the_api_is_told_of() {
        let found = told(false);
        assert_eq!(found.len(), API.len() + 1, "{found:#?}");
        assert!(found.iter().all(|line| line.starts_with("KUBERNETES_")));
    }

    #[test]
    fn names_become_what_a_shell_takes() {
        assert_eq!(variable_name("a-b.c"), "A_B_C");
        assert_eq!(variable_name("1st"), "_1ST");
    }
}
