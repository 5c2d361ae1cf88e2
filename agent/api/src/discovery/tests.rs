use super::*;

#[test]
fn groups_come_once_and_core_first() {
    let found = group_versions();
    assert_eq!(found[0], ("", "v1"));
    assert!(found.contains(&("metrics.k8s.io", "v1beta1")));
    let names: Vec<Value> = api_groups()["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].clone())
        .collect();
    let expected = [
        "apps",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "metrics.k8s.io",
        "minidc.dev",
        "networking.k8s.io",
    ];
    assert_eq!(names, expected);
    assert_eq!(api_versions()["versions"], json!(["v1"]));
    assert_eq!(
        api_group("apps").unwrap()["preferredVersion"]["groupVersion"],
        "apps/v1"
    );
    assert_eq!(api_group("nope"), None);
    assert_eq!(api_group(""), None);
}

#[test]
fn deployments_are_listed_as_kubectl_expects() {
    let list = resources("apps", "v1").unwrap();
    assert_eq!(list["groupVersion"], "apps/v1");
    assert_eq!(
        list["resources"][0],
        json!({"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"], "shortNames": ["deploy"], "categories": ["all"]})
    );
    assert_eq!(
        list["resources"][1],
        json!({"name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale",
            "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"]})
    );
    assert_eq!(resources("apps", "v2"), None);
    assert_eq!(resources("nope", "v1"), None);
}

#[test]
fn the_aggregated_form_holds_the_same() {
    for core in [true, false] {
        for group in aggregated(core)["items"].as_array().unwrap() {
            let name = group["metadata"]
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            assert_eq!(name.is_empty(), core);
            for version in group["versions"].as_array().unwrap() {
                let plain = resources(name, version["version"].as_str().unwrap()).unwrap();
                let mut names = Vec::new();
                for resource in version["resources"].as_array().unwrap() {
                    names.push(resource["resource"].as_str().unwrap().to_owned());
                    for subresource in resource
                        .get("subresources")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                    {
                        names.push(format!(
                            "{}/{}",
                            resource["resource"].as_str().unwrap(),
                            subresource["subresource"].as_str().unwrap()
                        ));
                    }
                }
                let expected: Vec<&str> = plain["resources"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|resource| resource["name"].as_str().unwrap())
                    .collect();
                assert_eq!(names, expected);
            }
        }
    }
}

#[test]
fn the_pinned_minor_is_that_of_k8s_openapi() {
    assert_eq!(version()["gitVersion"], git_version());
    let info: k8s_openapi::apimachinery::pkg::version::Info = serde_json::from_value(version()).unwrap();
    assert_eq!((info.major.as_str(), info.minor.as_str()), ("1", KUBERNETES_MINOR));
}
