//! What a node says of itself with each heartbeat, laid over its stored object for whoever reads it: load comes and goes, and is not
//! worth a write to the card.

use minidc_api::kinds::Kind;
use minidc_store::Entry;
use serde_json::Value;

use crate::metrics::Metrics;
use crate::negotiate::Form;
use crate::object;

/// What is so of a node now.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// An annotation, by its name. Only tables show it: whoever reads an object may write it back.
    pub annotation: (&'static str, String),
    /// A condition; the stored one keeps what is not said here.
    pub condition: Value,
}

impl Live {
    /// Lays itself over an object; false when nothing of it is news.
    fn lay_over(&self, node: &mut Value, form: Form) -> bool {
        let mut news = false;
        let (name, value) = &self.annotation;
        if form == Form::Table
            && object::metadata(node)
                .get("annotations")
                .is_none_or(|known| known[name] != **value)
        {
            object::metadata(node)
                .entry("annotations")
                .or_insert_with(|| Value::Object(serde_json::Map::new()))[*name] = value.as_str().into();
            news = true;
        }
        let conditions = node.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        let stored = conditions
            .into_iter()
            .flatten()
            .find(|stored| stored["type"] == self.condition["type"]);
        if let (Some(stored), Some(live)) = (stored, self.condition.as_object())
            && stored["reason"] != self.condition["reason"]
        {
            let same = self.condition["status"].is_null() || stored["status"] == self.condition["status"];
            for (key, value) in live {
                // since when it is so has not changed with the reason
                if !(same && key == "lastTransitionTime" || value.is_null()) {
                    stored[key] = value.clone();
                }
            }
            news = true;
        }
        news
    }
}

impl Metrics {
    /// An entry as it is to be shown: a node's with what it said last, any other as it is stored.
    pub(crate) fn shown(&self, kind: &Kind, entry: Entry, form: Form) -> Entry {
        if kind.kind != "Node" || form == Form::Metadata {
            return entry;
        }
        let Some(live) = self.live(object::key_parts(&entry.key).1) else {
            return entry;
        };
        let Ok(mut node) = object::parse(&entry) else {
            return entry;
        };
        if !live.lay_over(&mut node, form) {
            return entry;
        }
        match object::seal(kind, &node) {
            Ok(envelope) => Entry {
                envelope: envelope.into(),
                ..entry
            },
            Err(_) => entry,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored() -> Value {
        json!({
            "metadata": {"annotations": {"minidc.dev/led": "ready"}},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady"},
                {"type": "BoardHealthy", "status": "True", "reason": "Ready", "lastTransitionTime": "before"},
            ]},
        })
    }

    fn live(led: &str, status: &Value, reason: &str) -> Live {
        Live {
            annotation: ("minidc.dev/led", led.into()),
            condition: json!({"type": "BoardHealthy", "status": status, "reason": reason, "lastTransitionTime": "now"}),
        }
    }

    #[test]
    fn load_is_shown_over_what_is_stored() {
        for (live, condition, led) in [
            (
                live("ready", &json!("True"), "Ready"),
                json!(["True", "Ready", "before"]),
                "ready",
            ),
            (
                live("busy (cpu)", &json!("True"), "Cpu"),
                json!(["True", "Cpu", "before"]),
                "busy (cpu)",
            ),
            (
                live("locate", &Value::Null, "Locate"),
                json!(["True", "Locate", "before"]),
                "locate",
            ),
            (
                live("lost (node-lost)", &json!("False"), "NodeLost"),
                json!(["False", "NodeLost", "now"]),
                "lost (node-lost)",
            ),
        ] {
            let (mut table, mut read) = (stored(), stored());
            assert_eq!(live.lay_over(&mut table, Form::Table), led != "ready");
            live.lay_over(&mut read, Form::Object);
            for node in [&table, &read] {
                let seen = &node["status"]["conditions"][1];
                assert_eq!(
                    json!([seen["status"], seen["reason"], seen["lastTransitionTime"]]),
                    condition
                );
            }
            assert_eq!(table["metadata"]["annotations"]["minidc.dev/led"], led);
            assert_eq!(
                read["metadata"],
                stored()["metadata"],
                "who writes back what it read stores no load"
            );
        }
    }
}
