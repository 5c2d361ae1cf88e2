use serde_json::json;

use super::*;

/// A service changed at some pointers.
fn changed(changes: &[(&str, Value)]) -> Value {
    changes.iter().fold(service(), |object, (pointer, value)| {
        with(object, pointer, value.clone())
    })
}

fn refused(new: &Value) -> Vec<String> {
    texts(&update(kind("", "services"), new, &service()))
}

#[test]
fn addresses_of_a_service_stay() {
    let moved = changed(&[
        ("/spec/clusterIP", json!("100.65.0.10")),
        ("/spec/clusterIPs", json!(["100.65.0.10"])),
    ]);
    assert_eq!(
        refused(&moved),
        ["spec.clusterIPs[0]: Invalid value: [\"100.65.0.10\"]: may not change once set"]
    );
    let headless = changed(&[
        ("/spec/clusterIP", json!("None")),
        ("/spec/clusterIPs", json!(["None"])),
    ]);
    assert_eq!(
        refused(&headless),
        ["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"]
    );
    let turned = changed(&[("/spec/ipFamilies", json!(["IPv6"]))]);
    assert_eq!(
        refused(&turned),
        [
            "spec.clusterIPs[0]: Invalid value: \"100.65.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            "spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set",
        ]
    );
    let alias = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "example.com.", "sessionAffinity": "None"}});
    assert_eq!(refused(&alias), [""; 0]);
}

#[test]
fn fields_of_a_service_fit_its_type() {
    check(
        "",
        "services",
        &service(),
        &[
            (
                "/spec/externalIPs",
                json!(["127.0.0.1", "169.254.1.1", "0.0.0.0", "x"]),
                &[
                    "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    "spec.externalIPs[1]: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                    "spec.externalIPs[2]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                    "spec.externalIPs[3]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "spec.externalTrafficPolicy: Required value",
                ],
            ),
            (
                "/spec/loadBalancerClass",
                json!("example.com/x"),
                &["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["x"]),
                &[
                    "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                    "spec.LoadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                "/spec/healthCheckNodePort",
                json!(30000),
                &[
                    "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ],
            ),
            (
                "/spec/trafficDistribution",
                json!("Far"),
                &[
                    "spec.trafficDistribution: Unsupported value: \"Far\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
                ],
            ),
            (
                "/spec/clusterIPs",
                json!(["100.65.0.9", "100.65.0.10"]),
                &[
                    "spec.clusterIPs: Invalid value: [\"100.65.0.9\",\"100.65.0.10\"]: may specify no more than one IP for each IP family",
                ],
            ),
            (
                "/spec/sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 10}}),
                &["spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None"],
            ),
        ],
    );
}

#[test]
fn report_of_a_load_balancer_is_checked_when_it_changes() {
    let mut balanced = changed(&[
        ("/spec/type", json!("LoadBalancer")),
        ("/spec/externalTrafficPolicy", json!("Cluster")),
        ("/spec/allocateLoadBalancerNodePorts", json!(true)),
        (
            "/status/loadBalancer/ingress",
            json!([{"ip": "192.168.1.5", "ipMode": "VIP"}]),
        ),
    ]);
    assert_eq!(texts(&update(kind("", "services"), &balanced, &service())), [""; 0]);
    let reported = balanced.clone();
    balanced["status"]["loadBalancer"]["ingress"] = json!([{"hostname": "10.0.0.1"}]);
    assert_eq!(
        texts(&update(kind("", "services"), &balanced, &reported)),
        ["status.loadBalancer.ingress[0].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"]
    );
    let plain = changed(&[(
        "/status/loadBalancer/ingress",
        json!([{"ip": "192.168.1.5", "ipMode": "VIP"}]),
    )]);
    assert_eq!(
        refused(&plain),
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \"LoadBalancer\""]
    );
    assert_eq!(texts(&update(kind("", "services"), &plain, &plain)), [""; 0]);
}

#[test]
fn endpoint_slices_follow_their_rules() {
    let slice = json!({
        "metadata": {"name": "web-abc", "namespace": "default"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["100.64.1.2"], "conditions": {}, "hostname": "web-0", "nodeName": "pi-1"}],
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}]
    });
    check(
        "discovery.k8s.io",
        "endpointslices",
        &slice,
        &[
            (
                "/endpoints/0/addresses",
                json!([]),
                &["endpoints[0].addresses: Required value: must contain at least 1 address"],
            ),
            (
                "/endpoints/0/addresses",
                json!(["fd00::1", "224.0.0.1"]),
                &[
                    "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
                    "endpoints[0].addresses[1]: Invalid value: \"224.0.0.1\": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
                ],
            ),
            (
                "/ports/1",
                json!({"name": "", "port": 70000, "protocol": "UDP"}),
                &[
                    "ports[1].name: Duplicate value: \"\"",
                    "ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                "/addressType",
                json!("IPX"),
                &["addressType: Unsupported value: \"IPX\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
            ),
        ],
    );
    let turned = with(
        with(slice.clone(), "/addressType", json!("FQDN")),
        "/endpoints",
        json!([{"addresses": ["a.example.com"]}]),
    );
    assert_eq!(
        texts(&update(kind("discovery.k8s.io", "endpointslices"), &turned, &slice)),
        ["addressType: Invalid value: \"FQDN\": field is immutable"]
    );
}

#[test]
fn endpoints_of_the_old_form_follow_their_rules() {
    let endpoints = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.168.1.5"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    });
    check(
        "",
        "endpoints",
        &endpoints,
        &[
            (
                "/subsets/0/addresses",
                json!([]),
                &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("::1"),
                &[
                    "subsets[0].addresses[0].ip: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
            (
                "/subsets/0/ports/1",
                json!({"port": 81, "name": "b", "protocol": "TCP"}),
                &["subsets[0].ports[0].name: Required value"],
            ),
        ],
    );
}

#[test]
fn names_of_addresses_are_canonical() {
    let address = |name: &str| {
        let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
        let object = json!({"metadata": {"name": name}, "spec": {"parentRef": parent}});
        texts(&create(kind("networking.k8s.io", "ipaddresses"), &object))
    };
    assert_eq!(address("100.65.0.1"), [""; 0]);
    assert_eq!(address("fd00::1"), [""; 0]);
    assert_eq!(
        address("fd00::0001"),
        ["metadata.name: Invalid value: \"fd00::0001\": must be in canonical form (\"fd00::1\")"]
    );
    assert_eq!(address("web").len(), 1);
}
