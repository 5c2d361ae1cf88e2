//! Strategic merge patch: merges lists item by item, since the schema knows what tells the items apart.

use serde_json::{Map, Value};

use super::Error;
use crate::schema::{self, Field, Shape, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";

/// What is known of the object that is being merged.
#[derive(Clone, Copy, Default)]
pub(super) enum Known {
    /// Its fields.
    Type(&'static Type),
    /// Any keys, with values of one shape.
    Map(&'static Shape),
    /// Nothing: objects merge, lists replace.
    #[default]
    Nothing,
}

impl Known {
    pub(super) fn of(type_name: &str) -> Self {
        schema::type_named(type_name).map_or(Self::Nothing, Self::Type)
    }

    fn of_shape(shape: &'static Shape) -> Self {
        match shape {
            Shape::Object(reference) => Self::Type(reference.get()),
            Shape::Map(item) => Self::Map(item),
            _ => Self::Nothing,
        }
    }

    fn field(self, key: &str) -> Option<&'static Field> {
        match self {
            Self::Type(known) => known.field(key),
            Self::Map(_) | Self::Nothing => None,
        }
    }

    /// What is known of the object in a field.
    fn below(self, key: &str) -> Self {
        match self {
            Self::Type(known) => known
                .field(key)
                .map_or(Self::Nothing, |field| Self::of_shape(&field.shape)),
            Self::Map(item) => Self::of_shape(item),
            Self::Nothing => Self::Nothing,
        }
    }

    /// How to merge the list in a field.
    fn list(self, key: &str) -> Strategy {
        let Some(field) = self.field(key) else {
            return Strategy::default();
        };
        let item = field.shape.item().map_or(Self::Nothing, Self::of_shape);
        Strategy {
            merge: field.patch_strategy.merge,
            merge_key: field.patch_merge_key,
            item,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Strategy {
    merge: bool,
    merge_key: Option<&'static str>,
    item: Known,
}

fn malformed(list: &str) -> Error {
    Error::Malformed(match list {
        RETAIN_KEYS => "invalid patch format of retainKeys".to_owned(),
        SET_ELEMENT_ORDER => "invalid patch format of setElementOrder list".to_owned(),
        _ => "invalid patch format of primitive list".to_owned(),
    })
}

fn no_merge_key(item: &Value, key: &str) -> Error {
    Error::DoesNotApply(format!("map: {item} does not contain declared merge key: {key}"))
}

/// The field that a directive such as `$setElementOrder/containers` is about.
fn subject<'a>(key: &'a str, directive: &str) -> Option<Result<&'a str, Error>> {
    let rest = key.strip_prefix(directive)?;
    Some(rest.strip_prefix('/').ok_or_else(|| malformed(directive)))
}

/// Merges a patch into an object.
pub(super) fn merge_map(
    original: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
    known: Known,
) -> Result<(), Error> {
    if let Some(directive) = patch.remove(PATCH) {
        match directive.as_str() {
            Some("replace") => *original = patch,
            Some("delete") => original.clear(),
            _ => return Err(unknown_directive(&directive, &patch)),
        }
        return Ok(());
    }
    retain_keys(original, &mut patch)?;
    for (field, order) in take_orders(&mut patch)? {
        ordered_list(original, &mut patch, &field, &order, known)?;
    }
    for (key, value) in patch {
        if let Some(field) = subject(&key, DELETE_FROM_PRIMITIVE_LIST) {
            let field = field?;
            let Value::Array(gone) = value else {
                return Err(malformed(DELETE_FROM_PRIMITIVE_LIST));
            };
            if let Some(Value::Array(list)) = original.get_mut(field) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        match (original.get_mut(&key), value) {
            (Some(Value::Object(inner)), Value::Object(value)) => merge_map(inner, value, known.below(&key))?,
            (Some(Value::Array(list)), Value::Array(value)) => {
                let strategy = known.list(&key);
                *list = if strategy.merge {
                    merge_list(std::mem::take(list), value, strategy, &key)?
                } else {
                    value.into_iter().filter_map(cleaned).collect()
                };
            }
            (found, value) => {
                let present = found.is_some();
                match cleaned(value) {
                    Some(value) => {
                        original.insert(key, value);
                    }
                    None if present => {
                        original.remove(&key);
                    }
                    None => {}
                }
            }
        }
    }
    Ok(())
}

fn unknown_directive(directive: &Value, patch: &Map<String, Value>) -> Error {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    Error::DoesNotApply(format!(
        "unknown patch type: {directive} in map: {}",
        Value::Object(patch.clone())
    ))
}

/// `$retainKeys`: what it does not list goes, and the patch may set nothing else.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(malformed(RETAIN_KEYS));
    };
    let listed = |key: &str| keys.iter().any(|listed| listed == key);
    for (key, value) in &*patch {
        let directive = key.starts_with(SET_ELEMENT_ORDER) || key.starts_with(DELETE_FROM_PRIMITIVE_LIST);
        if !value.is_null() && !directive && !listed(key) {
            return Err(malformed(RETAIN_KEYS));
        }
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Takes the `$setElementOrder` directives out of a patch: field and wanted order.
fn take_orders(patch: &mut Map<String, Value>) -> Result<Vec<(String, Vec<Value>)>, Error> {
    let keys: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(SET_ELEMENT_ORDER))
        .cloned()
        .collect();
    let mut orders = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(Value::Array(order)) = patch.remove(&key) else {
            return Err(malformed(SET_ELEMENT_ORDER));
        };
        if let Some(field) = subject(&key, SET_ELEMENT_ORDER) {
            orders.push((field?.to_owned(), order));
        }
    }
    Ok(orders)
}

/// Merges a list whose order the patch gives.
fn ordered_list(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    field: &str,
    order: &[Value],
    known: Known,
) -> Result<(), Error> {
    let strategy = known.list(field);
    let patched = match patch.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) => Some(list.clone()),
        Some(other) => return Err(Error::DoesNotApply(format!("expected a list, but received {other}"))),
    };
    let present = match original.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) => Some(list.clone()),
        Some(other) => return Err(Error::DoesNotApply(format!("expected a list, but received {other}"))),
    };
    if patch.get(field).is_some_and(Value::is_null) {
        // The list is being removed; its order no longer matters.
        return Ok(());
    }
    if let Some(patched) = &patched {
        check_order(patched, order, strategy.merge_key)?;
    }
    let server_order = present.clone().unwrap_or_default();
    let merged = match (present, patched) {
        (None, None) => return Ok(()),
        (Some(present), None) => present,
        (None, Some(patched)) => patched.into_iter().filter_map(cleaned).collect(),
        (Some(present), Some(patched)) if strategy.merge => merge_list(present, patched, strategy, field)?,
        (Some(_), Some(patched)) => patched.into_iter().filter_map(cleaned).collect(),
    };
    let merged = in_order(merged, order, &server_order, strategy.merge_key)?;
    original.insert(field.to_owned(), Value::Array(merged));
    patch.remove(field);
    Ok(())
}

/// The items that the patch sets must stand in the given order, in the same sequence.
fn check_order(patched: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), Error> {
    if order.is_empty() {
        return Ok(());
    }
    let mut expected = order.iter();
    for item in patched.iter().filter(|item| item.get(PATCH).is_none()) {
        if !expected.any(|listed| same(listed, item, merge_key)) {
            return Err(Error::DoesNotApply(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::Array(patched.to_vec()),
                Value::Array(order.to_vec())
            )));
        }
    }
    Ok(())
}

/// The same item: by its merge key, or as a scalar.
fn same(a: &Value, b: &Value, merge_key: Option<&str>) -> bool {
    match merge_key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn position(list: &[Value], item: &Value, merge_key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same(other, item, merge_key))
}

/// Merges a list of a patch into a list of the object.
fn merge_list(original: Vec<Value>, patch: Vec<Value>, strategy: Strategy, field: &str) -> Result<Vec<Value>, Error> {
    let mut items = original.iter().chain(&patch);
    let Some(first) = items.next() else { return Ok(original) };
    if first.is_array() {
        return Err(Error::DoesNotApply("lists of lists are not supported".to_owned()));
    }
    if items.any(|item| std::mem::discriminant(item) != std::mem::discriminant(first)) {
        return Err(Error::DoesNotApply(format!(
            "list element types are not identical: {field}"
        )));
    }
    if !first.is_object() {
        let mut merged = original.clone();
        for item in &patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return in_order(merged, &patch, &original, None);
    }
    let Some(key) = strategy.merge_key else {
        return Err(Error::DoesNotApply(format!(
            "cannot merge lists without merge key for {field}"
        )));
    };
    let (original, patch) = special_items(original, patch, key)?;
    let mut merged = original.clone();
    for item in &patch {
        let Value::Object(fields) = item else { continue };
        if !fields.contains_key(key) {
            return Err(no_merge_key(item, key));
        }
        match position(&merged, item, Some(key)) {
            Some(index) => {
                if let Some(Value::Object(found)) = merged.get_mut(index) {
                    merge_map(found, fields.clone(), strategy.item)?;
                }
            }
            None => merged.extend(cleaned(item.clone())),
        }
    }
    in_order(merged, &patch, &original, Some(key))
}

/// Follows the `$patch` directives among the items of a list; returns what is left of both lists.
fn special_items(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("delete") if item.get(key).is_some() => original.retain(|other| !same(other, &item, Some(key))),
            Some("delete") => return Err(no_merge_key(&item, key)),
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(Error::DoesNotApply(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            Some(other) => {
                return Err(Error::DoesNotApply(format!(
                    "unknown patch type: {other} in map: {item}"
                )));
            }
        }
    }
    if replace {
        let replacement = plain.into_iter().filter_map(cleaned).collect();
        return Ok((replacement, Vec::new()));
    }
    Ok((original, plain))
}

/// Orders merged items: those that `wanted` names come in its order, the others in the order they had, and of two
/// that both were there before, the earlier stays first; otherwise what is wanted goes first.
fn in_order(
    merged: Vec<Value>,
    wanted: &[Value],
    before: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, Error> {
    if let Some(key) = merge_key
        && let Some(item) = merged.iter().find(|item| item.get(key).is_none())
    {
        return Err(no_merge_key(item, key));
    }
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| position(wanted, item, merge_key).is_some());
    let rank = |list: &[Value], item: &Value| position(list, item, merge_key).unwrap_or(usize::MAX);
    named.sort_by_cached_key(|item| rank(wanted, item));
    others.sort_by_cached_key(|item| rank(before, item));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return Ok(result),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(wanted)) => {
                match (position(before, other, merge_key), position(before, wanted, merge_key)) {
                    (Some(other), Some(wanted)) => other < wanted,
                    _ => false,
                }
            }
        };
        result.extend(if other_first { others.next() } else { named.next() });
    }
}

/// A value of a patch that goes into the object as it is, without nulls and directives; `None` when the whole value is
/// a directive.
fn cleaned(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(PATCH) {
                return None;
            }
            let kept = map
                .into_iter()
                .filter(|(key, value)| {
                    !value.is_null()
                        && key != RETAIN_KEYS
                        && !key.starts_with(SET_ELEMENT_ORDER)
                        && !key.starts_with(DELETE_FROM_PRIMITIVE_LIST)
                })
                .filter_map(|(key, value)| cleaned(value).map(|value| (key, value)))
                .collect();
            Some(Value::Object(kept))
        }
        Value::Array(items) => Some(items.into_iter().filter_map(cleaned).collect()),
        other => Some(other),
    }
}
