//! Reading a part of an ordered map.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::Entry;

/// The entries whose keys start with `prefix`, in key order.
pub(crate) fn with_prefix<'a>(
    entries: &'a BTreeMap<Arc<str>, Entry>,
    prefix: &'a str,
) -> impl Iterator<Item = &'a Entry> {
    entries
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(_, entry)| entry)
}
