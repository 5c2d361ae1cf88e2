use serde_json::{Value, json};

use super::*;
use crate::objects::from_json;

fn node(ready: Option<&str>, more: &Value) -> std::sync::Arc<Node> {
    let conditions: Vec<Value> = ready
        .map(|status| json!({"type": "Ready", "status": status}))
        .into_iter()
        .collect();
    let mut object = json!({"metadata": {"name": "pi-1"}, "spec": {}, "status": {"conditions": conditions}});
    if let Some(taints) = more.get("taints") {
        object["spec"]["taints"] = taints.clone();
    }
    if let Some(cordoned) = more.get("unschedulable") {
        object["spec"]["unschedulable"] = cordoned.clone();
    }
    if let Some(condition) = more.get("condition") {
        object["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(condition.clone());
    }
    from_json(object)
}

fn short(node: &Node, allowed: bool) -> Option<Vec<String>> {
    let taints = taints(node, allowed, Timestamp::UNIX_EPOCH)?;
    Some(
        taints
            .iter()
            .map(|taint| {
                format!(
                    "{}:{}",
                    taint.key.trim_start_matches("node.kubernetes.io/"),
                    taint.effect
                )
            })
            .collect(),
    )
}

#[test]
fn taints_follow_from_conditions() {
    let well = json!({});
    let unreachable = json!({"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
    ]});
    let own = json!({"taints": [{"key": "dedicated", "value": "x", "effect": "NoExecute"}]});
    let pressure = json!({"condition": {"type": "DiskPressure", "status": "True"}});
    for (ready, more, allowed, expected) in [
        (Some("True"), &well, true, None),
        (
            Some("False"),
            &well,
            true,
            Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
        ),
        (
            Some("Unknown"),
            &well,
            true,
            Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
        ),
        // Nobody is driven away while it is not sure who is cut off.
        (Some("Unknown"), &well, false, Some(vec!["unreachable:NoSchedule"])),
        // What was begun before stays as it is.
        (Some("Unknown"), &unreachable, false, None),
        (Some("True"), &unreachable, true, Some(vec![])),
        (Some("True"), &unreachable, false, Some(vec![])),
        (
            Some("False"),
            &unreachable,
            true,
            Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
        ),
        (None, &well, true, Some(vec!["not-ready:NoSchedule"])),
        (Some("True"), &own, true, None),
        (
            Some("False"),
            &own,
            true,
            Some(vec![
                "dedicated:NoExecute",
                "not-ready:NoSchedule",
                "not-ready:NoExecute",
            ]),
        ),
        (Some("True"), &pressure, true, Some(vec!["disk-pressure:NoSchedule"])),
        (
            Some("True"),
            &json!({"unschedulable": true}),
            true,
            Some(vec!["unschedulable:NoSchedule"]),
        ),
        (
            Some("True"),
            &json!({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
            true,
            Some(vec![]),
        ),
    ] {
        let expected = expected.map(|list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(
            short(&node(ready, more), allowed),
            expected,
            "{ready:?} {more} {allowed}"
        );
    }
}

#[test]
fn conditions_of_a_silent_node_become_unknown_once() {
    let reasons = |node: &Node| -> Vec<(String, Option<String>)> {
        unknown_conditions(node, Timestamp::UNIX_EPOCH)
            .into_iter()
            .map(|one| (one.kind, one.reason))
            .collect()
    };
    let heard = node(
        Some("True"),
        &json!({"condition": {"type": "DiskPressure", "status": "Unknown"}}),
    );
    let pair = |kind: &str, reason: &str| (kind.to_owned(), Some(reason.to_owned()));
    assert_eq!(
        reasons(&heard),
        [
            pair("Ready", "NodeStatusUnknown"),
            pair("MemoryPressure", "NodeStatusNeverUpdated"),
            pair("PIDPressure", "NodeStatusNeverUpdated"),
        ]
    );
}

#[test]
fn time_on_a_tainted_node_is_the_shortest_toleration() {
    let unreachable = Taint::new(UNREACHABLE, NO_EXECUTE);
    let dedicated = Taint {
        value: Some("x".into()),
        ..Taint::new("dedicated", NO_EXECUTE)
    };
    let no_schedule = Taint::new(UNREACHABLE, NO_SCHEDULE);
    let toleration = |value: Value| -> Toleration { serde_json::from_value(value).unwrap() };
    let three =
        toleration(json!({"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}));
    let anything = toleration(json!({"operator": "Exists"}));
    let wrong_value = toleration(json!({"key": "dedicated", "value": "y"}));
    let right_value =
        toleration(json!({"key": "dedicated", "operator": "Equal", "value": "x", "tolerationSeconds": 9}));
    let negative = toleration(json!({"operator": "Exists", "tolerationSeconds": -1}));
    let seconds = |seconds| Stay::For(Duration::from_secs(seconds));
    for (taints, tolerations, expected) in [
        (vec![], vec![], Stay::Forever),
        (vec![&no_schedule], vec![], Stay::Forever),
        (vec![&unreachable], vec![], seconds(0)),
        (vec![&unreachable], vec![&three], seconds(3)),
        (vec![&unreachable], vec![&anything], Stay::Forever),
        (vec![&unreachable], vec![&anything, &three], seconds(3)),
        (vec![&unreachable, &dedicated], vec![&three], seconds(0)),
        (vec![&unreachable, &dedicated], vec![&three, &wrong_value], seconds(0)),
        (vec![&unreachable, &dedicated], vec![&three, &right_value], seconds(3)),
        (vec![&dedicated], vec![&right_value], seconds(9)),
        (vec![&dedicated], vec![&negative], seconds(0)),
    ] {
        let (taints, tolerations): (Vec<_>, Vec<_>) = (
            taints.into_iter().cloned().collect(),
            tolerations.into_iter().cloned().collect(),
        );
        assert_eq!(stay(&taints, &tolerations), expected, "{taints:?} {tolerations:?}");
    }
}

#[test]
fn silence_is_counted_only_while_somebody_listens() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let (silence, grace) = (Duration::from_secs(3), Duration::from_secs(120));
    let hearing = |at, heard| Hearing {
        at,
        heard,
        renewed: "".into(),
    };
    for (at, heard, floor, expected) in [
        (10, true, 0, 13),
        (10, false, 0, 130),
        // The control plane stood still until 20.
        (10, true, 20, 23),
        (30, true, 20, 33),
    ] {
        assert_eq!(
            silent_from(&hearing(after(at), heard), after(floor), silence, grace),
            after(expected)
        );
    }
}
