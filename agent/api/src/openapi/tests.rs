use std::collections::BTreeSet;

use super::*;

fn documents() -> Vec<(String, Value)> {
    let index: Value = serde_json::from_slice(&v3_index()).unwrap();
    let mut documents = vec![("v2".to_owned(), serde_json::from_slice(&v2()).unwrap())];
    for (path, place) in index["paths"].as_object().unwrap() {
        assert!(
            place["serverRelativeURL"]
                .as_str()
                .unwrap()
                .starts_with(&format!("/openapi/v3/{path}?hash="))
        );
        documents.push((path.clone(), serde_json::from_slice(&v3(path).unwrap()).unwrap()));
    }
    documents
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                found.insert(reference);
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    for (name, document) in documents() {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{name}: {reference}");
        }
    }
}

#[test]
fn every_kind_that_can_be_patched_takes_strategic_patches_and_field_validation() {
    let documents = documents();
    for kind in kinds::all().iter().filter(|kind| kind.allows("patch")) {
        let prefix = if kind.group.is_empty() { "api" } else { "apis" };
        let (_, document) = documents
            .iter()
            .find(|(path, _)| *path == format!("{prefix}/{}", kind.api_version()))
            .unwrap();
        let patches: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(|path| path.get("patch"))
            .filter(|patch| patch["x-kubernetes-group-version-kind"]["kind"] == kind.kind)
            .collect();
        assert!(!patches.is_empty(), "{}", kind.kind);
        // kubectl takes the first it meets, in no certain order.
        for patch in patches {
            assert!(
                patch["requestBody"]["content"]
                    .get("application/strategic-merge-patch+json")
                    .is_some()
            );
            let names: Vec<&Value> = patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|parameter| &parameter["name"])
                .collect();
            assert!(names.contains(&&json!("fieldValidation")));
        }
    }
}

#[test]
fn pod_definition_says_how_to_merge() {
    let document: Value = serde_json::from_slice(&v3("api/v1").unwrap()).unwrap();
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    assert_eq!(spec["required"], json!(["containers"]));
    let volumes = &spec["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(volumes["x-kubernetes-list-type"], "map");
    assert_eq!(volumes["x-kubernetes-list-map-keys"], json!(["name"]));
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
}

#[test]
fn operations_have_names_of_their_own() {
    for (name, document) in documents() {
        let mut seen = BTreeSet::new();
        for path in document["paths"].as_object().unwrap().values() {
            for operation in path
                .as_object()
                .unwrap()
                .values()
                .filter_map(|operation| operation.get("operationId"))
            {
                assert!(
                    seen.insert(operation.as_str().unwrap().to_owned()),
                    "{name}: {operation}"
                );
            }
        }
        assert!(!seen.is_empty());
    }
}

#[test]
fn unknown_documents_do_not_exist() {
    for path in [
        "",
        "api",
        "api/v2",
        "apis/v1",
        "apis//v1",
        "apis/nope/v1",
        "apis/apps/v1/x",
    ] {
        assert_eq!(v3(path), None, "{path}");
    }
    assert_eq!(v3_hash("apis/apps/v1").map(|hash| hash.len()), Some(16));
}
