//! JSON and YAML into a tree of values that remembers which keys came twice.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::options::DuplicateKeyPolicy;

/// Reads JSON whatever it holds, and tells fields that appear twice (`duplicate field "spec.replicas"`); the last one wins.
///
/// Nesting is bounded to 128 levels. The caller bounds the size.
///
/// # Errors
/// What the parser says, with line and column.
pub(super) fn json(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let track = RefCell::new(Track::default());
    let mut parser = serde_json::Deserializer::from_slice(body);
    let value = Tree(&track)
        .deserialize(&mut parser)
        .map_err(|problem| problem.to_string())?;
    parser.end().map_err(|problem| problem.to_string())?;
    Ok((value, track.into_inner().duplicates))
}

/// As [`json`], with 64 levels at most.
///
/// # Errors
/// As [`json`].
pub(super) fn yaml(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let track = RefCell::new(Track::default());
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 64, max_documents: 1 },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `defaultMode: 0644` is octal in Kubernetes' YAML.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let value = serde_saphyr::with_deserializer_from_slice_with_options(body, options, |parser| {
        Tree(&track).deserialize(parser)
    })
    .map_err(|problem| problem.to_string())?;
    Ok((value, track.into_inner().duplicates))
}

#[derive(Default)]
struct Track {
    /// Where the reader is, as in `spec.containers[0]`.
    path: String,
    duplicates: Vec<String>,
}

/// Enough for any message.
const MOST_DUPLICATES: usize = 100;

#[derive(Clone, Copy)]
struct Tree<'a>(&'a RefCell<Track>);

impl Tree<'_> {
    /// Goes one step down; the result is where to come back to.
    fn enter(self, step: impl FnOnce(&mut String)) -> usize {
        let mut track = self.0.borrow_mut();
        let length = track.path.len();
        step(&mut track.path);
        length
    }

    fn leave(self, length: usize) {
        self.0.borrow_mut().path.truncate(length);
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let length = self.enter(|path| {
                path.push('[');
                path.push_str(&list.len().to_string());
                path.push(']');
            });
            let item = items.next_element_seed(self)?;
            self.leave(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let length = self.enter(|path| {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&key);
            });
            let value = entries.next_value_seed(self)?;
            if map.contains_key(&key) {
                let mut track = self.0.borrow_mut();
                let text = format!("duplicate field {:?}", track.path);
                if track.duplicates.len() < MOST_DUPLICATES && !track.duplicates.contains(&text) {
                    track.duplicates.push(text);
                }
            }
            self.leave(length);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key of a map; YAML's numbers and booleans become text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        Err(E::custom("a key cannot be null"))
    }
}
