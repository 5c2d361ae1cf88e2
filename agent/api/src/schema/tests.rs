use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, json};

use super::*;
use crate::decode::{FieldValidation, check};
use crate::kinds;

/// An object in which every field is present.
pub(crate) fn full_object(object: &'static Type) -> Value {
    let fields: Map<String, Value> = object
        .fields
        .iter()
        .map(|field| (field.name.to_owned(), full_value(&field.shape, field)))
        .collect();
    let mut value = Value::Object(fields);
    if let Some(known) = object.group_version_kind {
        value["apiVersion"] = crate::discovery::api_version(known.group, known.version).into();
        value["kind"] = known.kind.into();
    }
    value
}

fn full_value(shape: &'static Shape, field: &Field) -> Value {
    match shape {
        Shape::String => field.values.last().copied().unwrap_or("text").into(),
        Shape::Integer(_) => 7.into(),
        Shape::Number => 1.5.into(),
        Shape::Boolean => true.into(),
        Shape::Quantity => "100m".into(),
        Shape::IntOrString => "25%".into(),
        Shape::Time => "2024-01-02T03:04:05Z".into(),
        Shape::MicroTime => "2024-01-02T03:04:05.000006Z".into(),
        Shape::Duration => "1m30s".into(),
        Shape::Bytes => "aGk=".into(),
        Shape::Any => json!({"f:x": {}}),
        Shape::Object(object) => full_object(object.get()),
        Shape::List(item) => json!([full_value(item, field)]),
        Shape::Map(item) => json!({"key": full_value(item, field)}),
    }
}

#[test]
fn the_whole_text_is_understood() {
    assert_eq!(SCHEMA.problems, Vec::<String>::new());
}

#[test]
fn every_row_has_a_type_that_says_the_same() {
    for kind in kinds::all() {
        let object = type_named(kind.schema).unwrap_or_else(|| panic!("{} has no type", kind.kind));
        let known = object.group_version_kind.unwrap();
        assert_eq!(
            (known.group, known.version, known.kind),
            (kind.group, kind.version, kind.kind)
        );
        assert!(object.field("metadata").is_some());
        for path in kind.fields {
            let mut here = object;
            for name in path.split('.') {
                let field = here
                    .field(name)
                    .unwrap_or_else(|| panic!("{}: no field {path}", kind.kind));
                here = field.shape.object().unwrap_or(&NO_TYPE);
            }
        }
    }
}

#[test]
fn merge_keys_and_list_keys_are_fields_of_their_items() {
    for object in types() {
        for field in &object.fields {
            let item = field.shape.item().and_then(Shape::object);
            let keys: Vec<&str> = match &field.list {
                ListKind::Map(keys) => keys.to_vec(),
                _ => Vec::new(),
            };
            for key in keys.into_iter().chain(field.patch_merge_key) {
                assert!(
                    item.is_some_and(|item| item.field(key).is_some()),
                    "{}.{}: {key}",
                    object.name,
                    field.name
                );
            }
        }
    }
}

#[test]
fn defaults_fit_their_fields() {
    for object in types() {
        for field in &object.fields {
            let Some(default) = &field.default else { continue };
            let fits = match &field.shape {
                Shape::String | Shape::IntOrString | Shape::Quantity => default.is_string(),
                Shape::Integer(_) => default.is_i64(),
                Shape::Boolean => default.is_boolean(),
                Shape::Object(_) => default.is_object(),
                Shape::List(_) => default.is_array(),
                _ => false,
            };
            assert!(fits, "{}.{}", object.name, field.name);
            if let (false, Some(text)) = (field.values.is_empty(), default.as_str()) {
                assert!(field.values.contains(&text), "{}.{}", object.name, field.name);
            }
        }
    }
}

#[test]
fn every_field_is_described() {
    for object in types() {
        assert!(object.description.ends_with('.'), "{}", object.name);
        for field in &object.fields {
            assert!(field.description.ends_with('.'), "{}.{}", object.name, field.name);
        }
    }
}

#[test]
fn short_names_find_a_type_only_where_they_are_unique() {
    assert_eq!(type_named("PodSpec").unwrap().full_name(), "io.k8s.api.core.v1.PodSpec");
    let text = "package a.v1\ntype Twin -- A.\n  x string -- X.\npackage b.v1\ntype Twin -- B.\n";
    let parsed = parser::parse(&[text]);
    assert_eq!(parsed.problems, Vec::<String>::new());
    assert!(parsed.find("Twin").is_none());
    assert!(parsed.find("b.v1.Twin").is_some());
}

#[test]
fn what_is_not_understood_is_told_with_its_line() {
    let text = "package a.v1\ntype T -- A.\n  x strin -- X.\n  y string maybe -- Y.\nnonsense\n  z string -- Z.\n";
    let problems = parser::parse(&[text]).problems;
    assert_eq!(
        problems,
        [
            "line 5: not understood: nonsense",
            "line 6: a field outside a type:   z string -- Z.",
            "line 3, a.v1.T: no type strin",
            "line 4, a.v1.T: y: what is maybe?",
        ]
    );
}

#[test]
fn full_objects_pass_the_strict_check_unchanged() {
    for kind in kinds::all() {
        let object = full_object(kind.object_type());
        let mut checked = object.clone();
        assert_eq!(
            check(kind, &mut checked, FieldValidation::Strict),
            Ok(Vec::new()),
            "{}",
            kind.kind
        );
        assert_eq!(checked, object, "{}", kind.kind);
        assert_eq!(violations(kind, &object), [], "{}", kind.kind);
    }
}

#[test]
fn required_fields_and_allowed_strings_are_told() {
    let kind = kinds::by_kind("apps", "v1", "Deployment").unwrap();
    let object = json!({"spec": {"template": {"spec": {"restartPolicy": "Maybe", "containers": [
        {"name": "a", "ports": [{"name": "x"}]}, {"image": "b"}]}}}});
    let found: Vec<String> = violations(kind, &object)
        .iter()
        .map(|error| format!("{}: {}", error.path, error.body()))
        .collect();
    assert_eq!(
        found,
        [
            "spec.selector: Required value",
            "spec.template.spec.containers[0].ports[0].containerPort: Required value",
            "spec.template.spec.containers[1].name: Required value",
            "spec.template.spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ]
    );
}

/// What k8s-openapi does not know or reads otherwise is lost or changed on the way through it.
fn round_trip<T: Serialize + DeserializeOwned>(name: &str) {
    let object = full_object(type_named(name).unwrap());
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    assert_eq!(serde_json::to_value(typed).unwrap(), object, "{name}");
}

#[test]
fn fields_and_shapes_are_those_of_k8s_openapi() {
    use k8s_openapi::api::{apps, autoscaling, coordination, core, discovery, networking};
    use k8s_openapi::apimachinery::pkg::apis::meta;
    round_trip::<core::v1::Pod>("io.k8s.api.core.v1.Pod");
    round_trip::<core::v1::Node>("io.k8s.api.core.v1.Node");
    round_trip::<core::v1::Namespace>("io.k8s.api.core.v1.Namespace");
    round_trip::<core::v1::ConfigMap>("io.k8s.api.core.v1.ConfigMap");
    round_trip::<core::v1::Secret>("io.k8s.api.core.v1.Secret");
    round_trip::<core::v1::Service>("io.k8s.api.core.v1.Service");
    round_trip::<core::v1::Endpoints>("io.k8s.api.core.v1.Endpoints");
    round_trip::<discovery::v1::EndpointSlice>("io.k8s.api.discovery.v1.EndpointSlice");
    round_trip::<networking::v1::IPAddress>("io.k8s.api.networking.v1.IPAddress");
    round_trip::<networking::v1::ServiceCIDR>("io.k8s.api.networking.v1.ServiceCIDR");
    round_trip::<core::v1::Event>("io.k8s.api.core.v1.Event");
    round_trip::<core::v1::Binding>("io.k8s.api.core.v1.Binding");
    round_trip::<apps::v1::Deployment>("io.k8s.api.apps.v1.Deployment");
    round_trip::<apps::v1::ReplicaSet>("io.k8s.api.apps.v1.ReplicaSet");
    round_trip::<coordination::v1::Lease>("io.k8s.api.coordination.v1.Lease");
    round_trip::<autoscaling::v1::Scale>("io.k8s.api.autoscaling.v1.Scale");
    round_trip::<meta::v1::Status>("io.k8s.apimachinery.pkg.apis.meta.v1.Status");
}
