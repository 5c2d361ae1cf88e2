use serde_json::{Value, json};

use super::*;
use crate::objects::endpoint_slice::{LAST_APPLIED, TRIGGER_TIME};
use crate::objects::from_json;

/// Family, port, and address and readiness of each endpoint.
type Shape<'a> = (&'a str, Option<u16>, Vec<(&'a str, Option<bool>)>);

fn endpoints(subsets: &Value) -> Arc<Endpoints> {
    from_json(json!({
        "metadata": {
            "name": "db", "namespace": "default", "uid": "e", "labels": {"team": "a"},
            "annotations": {"note": "x", LAST_APPLIED: "{}", TRIGGER_TIME: "2026-01-01T00:00:00Z"},
        },
        "subsets": subsets,
    }))
}

fn written(body: &Body, name: &str) -> Arc<EndpointSlice> {
    let map = |pairs: &Pairs| -> serde_json::Map<String, Value> {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), (**value).into()))
            .collect()
    };
    let mut reversed = body.endpoints.clone();
    reversed.reverse();
    from_json(json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": map(&body.labels), "annotations": map(&body.annotations),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "e", "controller": true}],
        },
        "addressType": body.family.name(),
        "endpoints": reversed,
        "ports": body.ports.iter().map(Port::in_slice).collect::<Vec<_>>(),
    }))
}

#[test]
fn each_set_of_ports_and_family_has_its_slice() {
    let endpoints = endpoints(&json!([
        {
            "addresses": [{"ip": "192.0.2.1", "hostname": "one", "nodeName": "pi-1"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}, {"ip": "nonsense"}],
            "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}],
        },
        {"addresses": [{"ip": "192.0.2.3"}], "ports": [{"name": "sql", "port": 3307, "protocol": "TCP"}]},
    ]));
    let (actions, skipped) = plan(&endpoints, &[]);
    assert_eq!(skipped, Skipped { invalid: 1, beyond: 0 });
    let shapes: Vec<Shape<'_>> = actions
        .create
        .iter()
        .map(|body| {
            let endpoints = body
                .endpoints
                .iter()
                .map(|endpoint| (&*endpoint.addresses[0], endpoint.conditions.ready))
                .collect();
            (body.family.name(), body.ports[0].port, endpoints)
        })
        .collect();
    assert_eq!(
        shapes,
        [
            (
                "IPv4",
                Some(3306),
                vec![("192.0.2.1", Some(true)), ("192.0.2.2", Some(false))]
            ),
            ("IPv4", Some(3307), vec![("192.0.2.3", Some(true))]),
            ("IPv6", Some(3306), vec![("2001:db8::1", Some(true))]),
        ]
    );
    let body = &actions.create[0];
    assert_eq!(body.endpoints[0].hostname.as_deref(), Some("one"));
    let pairs = |list: &[(&str, &str)]| -> Pairs { list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect() };
    assert_eq!(
        (&body.labels, &body.annotations),
        (
            &pairs(&[(MANAGED_BY, MANAGER), (SERVICE_NAME, "db"), ("team", "a")]),
            &pairs(&[("note", "x")])
        )
    );
    // What was written is left alone.
    let slices: Vec<_> = actions
        .create
        .iter()
        .enumerate()
        .map(|(number, body)| written(body, &format!("db-{number}")))
        .collect();
    assert!(plan(&endpoints, &slices).0.is_empty());
}

#[test]
fn changes_are_written_to_the_slice_that_is_there() {
    let one = |ip: &str, port: u16| json!([{"addresses": [{"ip": ip}], "ports": [{"port": port, "protocol": "TCP"}]}]);
    let (first, _) = plan(&endpoints(&one("192.0.2.1", 80)), &[]);
    let slices = [written(&first.create[0], "db-0")];
    // Another address; then another port, for which the slice is used again.
    for changed in [one("192.0.2.2", 80), one("192.0.2.1", 81)] {
        let (actions, _) = plan(&endpoints(&changed), &slices);
        assert_eq!(
            (actions.create.len(), actions.update.len(), actions.delete.len()),
            (0, 1, 0)
        );
    }
    let (actions, _) = plan(&endpoints(&json!([])), &slices);
    assert_eq!(
        (actions.create.len(), actions.update.len(), actions.delete.len()),
        (0, 0, 1)
    );
}

#[test]
fn a_thousand_addresses_of_a_subset_are_mirrored() {
    let addresses: Vec<Value> = (0..1003)
        .map(|number| json!({"ip": format!("192.0.{}.{}", number / 250, number % 250)}))
        .collect();
    let (actions, skipped) = plan(&endpoints(&json!([{"addresses": addresses}])), &[]);
    assert_eq!(actions.create[0].endpoints.len(), MOST);
    assert_eq!(skipped, Skipped { invalid: 0, beyond: 3 });
}
