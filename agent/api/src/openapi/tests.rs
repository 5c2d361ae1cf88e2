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

/// The fields of a protobuf message: number, and the bytes of a text or message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes);
        let value = number(&mut bytes);
        let mut content: &[u8] = &[];
        if tag & 7 == 2 {
            (content, bytes) = bytes.split_at(usize::try_from(value).unwrap());
        }
        found.push((tag >> 3, content));
    }
    found
}

fn one(bytes: &[u8], number: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(found, _)| *found == number).unwrap().1
}

#[test]
fn protobuf_has_the_definitions_of_the_json() {
    let document = v2_protobuf();
    assert_eq!(one(&document, 1), b"2.0");
    let definitions = fields(one(&document, 9));
    let (_, json) = documents().swap_remove(0);
    let names: BTreeSet<&[u8]> = definitions.iter().map(|(_, named)| one(named, 1)).collect();
    let expected: BTreeSet<&[u8]> = json["definitions"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_bytes)
        .collect();
    assert_eq!(names, expected);
    let (_, named) = definitions
        .iter()
        .find(|(_, named)| one(named, 1) == b"io.k8s.api.core.v1.PodSpec")
        .unwrap();
    let properties = fields(one(one(named, 2), 25));
    let (_, containers) = properties
        .iter()
        .find(|(_, field)| one(field, 1) == b"containers")
        .unwrap();
    let containers = one(containers, 2);
    assert_eq!(one(one(containers, 22), 1), b"array");
    let item = one(one(containers, 23), 1);
    assert_eq!(one(item, 1), b"#/definitions/io.k8s.api.core.v1.Container");
    let merge_key = fields(containers)
        .into_iter()
        .find(|(number, extension)| *number == 31 && one(extension, 1) == b"x-kubernetes-patch-merge-key")
        .unwrap();
    assert_eq!(one(one(merge_key.1, 2), 2), br#""name""#);
}

#[test]
fn protobuf_says_that_patches_take_field_validation() {
    let document = v2_protobuf();
    let paths = fields(one(&document, 8));
    let (_, path) = paths
        .iter()
        .find(|(_, path)| one(path, 1) == b"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
        .unwrap();
    let patch = one(one(path, 2), 7);
    let names: Vec<&[u8]> = fields(patch)
        .into_iter()
        .filter(|(number, _)| *number == 8)
        .map(|(_, item)| one(one(one(one(item, 1), 2), 3), 4))
        .collect();
    assert!(names.contains(&b"fieldValidation".as_slice()));
}
