//! IP families of a service: Kubernetes' `initIPFamilyFields`.

use minidc_api::validate::FieldError;
use minidc_api::validate::service::cluster_addresses;
use serde_json::{Map, Value, json};

use super::range::Range;

const POLICY: &str = "spec.ipFamilyPolicy";

fn list(spec: &Map<String, Value>, field: &str) -> Vec<Value> {
    spec.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn has_selector(spec: &Map<String, Value>) -> bool {
    spec.get("selector")
        .and_then(Value::as_object)
        .is_some_and(|selector| !selector.is_empty())
}

fn family_of(ip: &Value) -> &'static str {
    if ip.as_str().is_some_and(|ip| ip.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    }
}

fn other_family(family: &Value) -> Value {
    if family == "IPv4" { "IPv6" } else { "IPv4" }.into()
}

/// Settles `ipFamilies` and `ipFamilyPolicy` of a service that is no alias, from what was said, what was, and what the
/// cluster has.
///
/// # Errors
/// What was said contradicts itself or the cluster.
pub(super) fn settle(
    spec: &mut Map<String, Value>,
    old: Option<&Value>,
    ranges: &[Range],
) -> Result<(), Vec<FieldError>> {
    let headless = spec.get("clusterIP").is_some_and(|ip| ip == "None");
    let free = headless && !has_selector(spec);
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let policy = match old.map(|old| &old["ipFamilyPolicy"]) {
            Some(Value::String(policy)) => policy.clone(),
            _ if free => "RequireDualStack".to_owned(),
            _ => "SingleStack".to_owned(),
        };
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
    }
    let settled = |old: &Value| {
        ["ipFamilyPolicy", "ipFamilies", "clusterIPs"]
            .into_iter()
            .all(|field| spec.get(field).is_some_and(|value| *value == old[field]))
    };
    if old.is_some_and(settled) {
        // Also when the cluster got a second family meanwhile: nothing is added behind anybody's back.
        return Ok(());
    }
    let mut errors = Vec::new();
    cluster_addresses(&Value::Object(spec.clone()), &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let policy = spec.get("ipFamilyPolicy").cloned().unwrap_or_default();
    let single = policy == "SingleStack";
    let mut families = list(spec, "ipFamilies");
    let mut addresses = list(spec, "clusterIPs");
    if let Some(old) = old {
        let before = |field: &str| old[field].as_array().cloned().unwrap_or_default();
        for (now, field, what) in [
            (&mut addresses, "clusterIPs", "cluster IP"),
            (&mut families, "ipFamilies", "IP family"),
        ] {
            let before = before(field);
            if single && *now == before {
                now.truncate(1);
            } else if !single && !now.is_empty() && now.len() < before.len() {
                let message = format!("must be 'SingleStack' to release the secondary {what}");
                errors.push(FieldError::invalid(POLICY, policy.clone(), message));
            }
        }
    }
    if single {
        for (count, what) in [(addresses.len(), "cluster IPs"), (families.len(), "IP families")] {
            if count == 2 {
                let message =
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                errors.push(FieldError::invalid(POLICY, policy.clone(), message));
            }
        }
    }
    let has = |family: &str| ranges.iter().any(|range| range.family() == family);
    for (position, ip) in addresses.iter().enumerate() {
        if ip == "None" {
            break;
        }
        let family = family_of(ip);
        if position >= families.len() {
            if has(family) {
                families.push(family.into());
            } else {
                let path = format!("spec.clusterIPs[{position}]");
                let message = format!("{family} is not configured on this cluster");
                errors.push(FieldError::invalid(path, json!(addresses), message));
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let default = ranges.first().map_or("IPv4", Range::family);
    if free {
        // Whose endpoints are somebody else's may be of any family.
        if families.is_empty() {
            families.push(default.into());
        }
    } else {
        if policy == "RequireDualStack" && ranges.len() < 2 {
            let message = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(POLICY, policy.clone(), message));
        }
        for (position, family) in families.iter().enumerate() {
            if !has(family.as_str().unwrap_or("")) {
                let path = format!("spec.ipFamilies[{position}]");
                errors.push(FieldError::invalid(
                    path,
                    family.clone(),
                    "not configured on this cluster",
                ));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        if families.is_empty() {
            families.push(default.into());
        }
    }
    if !single && families.len() == 1 && (free || ranges.len() == 2) {
        families.push(other_family(&families[0]));
    }
    spec.insert("ipFamilies".to_owned(), families.into());
    if !addresses.is_empty() {
        spec.insert("clusterIPs".to_owned(), addresses.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(spec: Value, old: Option<&Value>, ranges: &[&str]) -> Result<(Value, Value), Vec<String>> {
        let Value::Object(mut spec) = spec else {
            panic!("an object")
        };
        let ranges: Vec<Range> = ranges.iter().map(|range| Range::parse(range).unwrap()).collect();
        settle(&mut spec, old, &ranges).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok((spec["ipFamilyPolicy"].clone(), spec["ipFamilies"].clone()))
    }

    const FOUR: &[&str] = &["100.65.0.0/16"];
    const BOTH: &[&str] = &["100.65.0.0/16", "fd00::/112"];

    #[test]
    fn families_follow_from_what_is_said() {
        for (spec, ranges, policy, families) in [
            (json!({}), FOUR, "SingleStack", json!(["IPv4"])),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                FOUR,
                "PreferDualStack",
                json!(["IPv4"]),
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                BOTH,
                "PreferDualStack",
                json!(["IPv4", "IPv6"]),
            ),
            (
                json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}),
                BOTH,
                "SingleStack",
                json!(["IPv6"]),
            ),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"]}),
                FOUR,
                "RequireDualStack",
                json!(["IPv4", "IPv6"]),
            ),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
                FOUR,
                "SingleStack",
                json!(["IPv4"]),
            ),
        ] {
            assert_eq!(
                settled(spec.clone(), None, ranges),
                Ok((policy.into(), families)),
                "{spec}"
            );
        }
    }

    #[test]
    fn what_the_cluster_cannot_do_is_refused() {
        for (spec, text) in [
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::5\"]: IPv6 is not configured on this cluster",
            ),
            (
                json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ),
            (
                json!({"clusterIPs": ["100.65.0.9"]}),
                "spec.clusterIPs: Invalid value: [\"100.65.0.9\"]: must be empty when `clusterIP` is not specified",
            ),
        ] {
            assert_eq!(settled(spec, None, FOUR), Err(vec![text.to_owned()]));
        }
    }

    #[test]
    fn second_family_is_released_by_policy() {
        let old = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIPs": ["100.65.0.9", "fd00::9"]});
        let single = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "100.65.0.9", "clusterIPs": ["100.65.0.9", "fd00::9"]});
        assert_eq!(
            settled(single, Some(&old), BOTH),
            Ok(("SingleStack".into(), json!(["IPv4"])))
        );
        let fewer = json!({"ipFamilies": ["IPv4"], "clusterIP": "100.65.0.9", "clusterIPs": ["100.65.0.9"]});
        assert_eq!(settled(fewer, Some(&old), BOTH).unwrap_err().len(), 2);
    }
}
