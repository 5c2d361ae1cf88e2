//! Reads the schema text.
//!
//! ```text
//! # a comment
//! package io.k8s.api.core.v1
//!
//! kind Pod v1 -- Containers that share one address and live on one node.
//!   1 metadata  ObjectMeta -- Name, labels and bookkeeping.
//!   2 spec      PodSpec -- What to run.
//!
//! type PodSpec -- What to run, and how.
//!   2   containers!    [Container] by(name) -- The containers; at least one.
//!   7   nodeSelector   {string} atomic -- Labels that the node must have.
//!   3   restartPolicy  string = "Always" of(Always, Never, OnFailure) -- What to do when a container ends.
//!   25? priority       int32 -- Its priority.
//! ```
//!
//! - `kind NAME GROUP/VERSION` is a type that is sent as a whole object; it gets `apiVersion` and `kind` by itself. An
//!   `atomic` before the dashes makes server-side apply see the type as one value.
//! - A field is indented. First comes its number in Kubernetes protobuf, from the tags of Kubernetes' Go types; our own
//!   kinds have none. `2.1` is field 1 of the message in field 2: a struct that Go embeds, so that JSON has it flat. `?`
//!   marks what Go keeps behind a pointer: a number, boolean or string that may be present and zero. Then `!` marks a name as required. Its shape is `string`, `int32`, `int64`, `number`, `bool`, `quantity`, `intOrString`,
//!   `time`, `microTime`, `duration`, `bytes`, `any`, the name of a type, `[SHAPE]` or `{SHAPE}` (a map).
//! - A type name means the type of the same package; else the only one of that name; else it is written in full.
//! - After the shape, in any order: `= JSON` (default, without spaces), `of(A, B)` (the strings it may be, kept sorted as Kubernetes tells them), `atomic`,
//!   `set`, `map(KEY, …)` (list kinds of server-side apply), `merge` or `merge(KEY)` and `retainKeys` (strategic merge),
//!   `by(KEY)` for `map(KEY) merge(KEY)`.
//! - `includes NAME` stands for the fields of another type of the package; its number holds them all.
//! - After ` -- ` comes one sentence for `kubectl explain`.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;

use super::{Field, FieldNumber, GroupVersionKind, IntegerFormat, ListKind, PatchStrategy, Shape, Type, TypeRef};

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Schema {
    /// Sorted by full name.
    pub(super) types: Vec<Type>,
    by_short_name: HashMap<&'static str, Option<TypeRef>>,
    /// What was not understood, with its line. Empty for the text that is compiled in.
    pub problems: Vec<String>,
}

impl Schema {
    pub(super) fn find(&self, name: &str) -> Option<TypeRef> {
        match name.rsplit_once('.') {
            Some((package, short)) => find(&self.types, package, short),
            None => self.by_short_name.get(name).copied().flatten(),
        }
    }
}

fn find(types: &[Type], package: &str, name: &str) -> Option<TypeRef> {
    let index = types
        .binary_search_by(|known| (known.package, known.name).cmp(&(package, name)))
        .ok()?;
    u16::try_from(index).ok().map(TypeRef)
}

/// A type whose fields still name other types.
struct Draft {
    head: Type,
    fields: Vec<(usize, &'static str)>,
}

/// Reads the texts; what is not understood is left out and told in `problems`.
pub fn parse(texts: &[&'static str]) -> Schema {
    let mut schema = Schema::default();
    let mut drafts: BTreeMap<(&'static str, &'static str), Draft> = BTreeMap::new();
    for text in texts {
        let mut package = "";
        let mut current: Option<(&'static str, &'static str)> = None;
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            if line.starts_with(' ') {
                match current.and_then(|name| drafts.get_mut(&name)) {
                    Some(draft) => draft.fields.push((number, line)),
                    None => schema
                        .problems
                        .push(format!("line {number}: a field outside a type: {line}")),
                }
                continue;
            }
            if let Some(name) = line.strip_prefix("package ") {
                package = name.trim();
                current = None;
                continue;
            }
            match head(package, line) {
                Some(head) => {
                    let name = (head.package, head.name);
                    if drafts
                        .insert(
                            name,
                            Draft {
                                head,
                                fields: Vec::new(),
                            },
                        )
                        .is_some()
                    {
                        schema
                            .problems
                            .push(format!("line {number}: {package}.{} appears twice", name.1));
                    }
                    current = Some(name);
                }
                None => {
                    schema.problems.push(format!("line {number}: not understood: {line}"));
                    current = None;
                }
            }
        }
    }
    let mut fields = Vec::with_capacity(drafts.len());
    for (_, draft) in drafts {
        schema.types.push(draft.head);
        fields.push(draft.fields);
    }
    for (index, known) in schema.types.iter().enumerate() {
        let reference = u16::try_from(index).ok().map(TypeRef);
        schema
            .by_short_name
            .entry(known.name)
            .and_modify(|other| *other = None)
            .or_insert(reference);
    }
    let mut parsed = Vec::with_capacity(fields.len());
    let mut problems = Vec::new();
    for (known, lines) in schema.types.iter().zip(&fields) {
        let mut list = Vec::with_capacity(lines.len() + 2);
        if known.group_version_kind.is_some() {
            list.push(type_meta("apiVersion", "Group and version of this object."));
            list.push(type_meta("kind", "What this object is."));
        }
        for (number, line, embedded) in expand(lines, known.package, &schema.types, &fields) {
            match field(line, known.package, &schema) {
                Ok(mut field) => {
                    if let (Some(number), Some(_)) = (&mut field.number, embedded) {
                        number.embedded = embedded;
                    }
                    list.push(field);
                }
                Err(problem) => problems.push(format!("line {number}, {}.{}: {problem}", known.package, known.name)),
            }
        }
        list.sort_by_key(|field| field.name);
        if let Some(pair) = list.windows(2).find(|pair| pair[0].name == pair[1].name) {
            problems.push(format!(
                "{}.{}: field {} appears twice",
                known.package, known.name, pair[0].name
            ));
        }
        list.shrink_to_fit();
        parsed.push(list);
    }
    for (known, fields) in schema.types.iter_mut().zip(parsed) {
        known.fields = fields;
    }
    schema.types.shrink_to_fit();
    schema.problems.append(&mut problems);
    schema
}

/// The lines of a type, with `includes NAME` replaced by the lines of that type and the number that holds them. An unknown
/// name stays and is told as a problem.
fn expand(
    lines: &[(usize, &'static str)],
    package: &str,
    types: &[Type],
    all: &[Vec<(usize, &'static str)>],
) -> Vec<(usize, &'static str, Option<NonZeroU16>)> {
    let mut result = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let (word, rest) = number_word(line.trim());
        let included = rest
            .strip_prefix("includes ")
            .and_then(|name| find(types, package, name.trim()))
            .and_then(|reference| all.get(usize::from(reference.0)));
        match included {
            Some(included) => {
                let embedded = word.and_then(|word| word.parse().ok());
                result.extend(included.iter().map(|(number, line)| (*number, *line, embedded)));
            }
            None => result.push((*number, *line, None)),
        }
    }
    result
}

/// `kind Pod v1 atomic -- …` or `type PodSpec -- …`, without its fields.
fn head(package: &'static str, line: &'static str) -> Option<Type> {
    let (declaration, description) = split_description(line);
    let mut words = declaration.split_whitespace();
    let keyword = words.next()?;
    let name = words.next()?;
    let group_version_kind = match keyword {
        "kind" => {
            let (group, version) = crate::kinds::split_api_version(words.next()?);
            Some(GroupVersionKind {
                group,
                version,
                kind: name,
            })
        }
        "type" => None,
        _ => return None,
    };
    let atomic = match words.next() {
        None => false,
        Some("atomic") => true,
        Some(_) => return None,
    };
    Some(Type {
        package,
        name,
        group_version_kind,
        fields: Vec::new(),
        atomic,
        description,
    })
}

fn split_description(line: &'static str) -> (&'static str, &'static str) {
    line.split_once(" -- ")
        .map_or((line, ""), |(declaration, description)| {
            (declaration, description.trim())
        })
}

fn type_meta(name: &'static str, description: &'static str) -> Field {
    plain_field(name, Shape::String, description)
}

fn plain_field(name: &'static str, shape: Shape, description: &'static str) -> Field {
    Field {
        name,
        shape,
        number: None,
        required: false,
        default: None,
        list: ListKind::Atomic,
        atomic: false,
        patch_merge_key: None,
        patch_strategy: PatchStrategy::default(),
        values: Box::default(),
        description,
    }
}

fn field(line: &'static str, package: &str, schema: &Schema) -> Result<Field, String> {
    let (declaration, description) = split_description(line);
    let (number, declaration) = number_word(declaration.trim());
    let number = number.map(field_number).transpose()?;
    let (name, rest) = declaration
        .split_once(char::is_whitespace)
        .ok_or("a field needs a shape")?;
    let (word, mut rest) = next_word(rest);
    let required = name.ends_with('!');
    let mut field = plain_field(name.trim_end_matches('!'), shape(word, package, schema)?, description);
    field.required = required;
    field.number = number;
    while !rest.is_empty() {
        let (word, after) = next_word(rest);
        rest = after;
        let (word, arguments) = match word.split_once('(') {
            Some((word, list)) => (
                word,
                list.trim_end_matches(')').split(',').map(str::trim).collect::<Vec<_>>(),
            ),
            None => (word, Vec::new()),
        };
        match word {
            "=" => {
                let (json, after) = next_word(rest);
                rest = after;
                field.default =
                    Some(serde_json::from_str(json).map_err(|problem| format!("default {json}: {problem}"))?);
            }
            "of" => {
                let mut values = arguments;
                values.sort_unstable();
                field.values = values.into_boxed_slice();
            }
            "atomic" => field.atomic = true,
            "set" => field.list = ListKind::Set,
            "map" => field.list = ListKind::Map(arguments.into_boxed_slice()),
            "merge" => {
                field.patch_strategy.merge = true;
                field.patch_merge_key = arguments.first().copied();
            }
            "by" => {
                field.patch_strategy.merge = true;
                field.patch_merge_key = arguments.first().copied();
                field.list = ListKind::Map(arguments.into_boxed_slice());
            }
            "retainKeys" => field.patch_strategy.retain_keys = true,
            other => return Err(format!("{}: what is {other}?", field.name)),
        }
    }
    Ok(field)
}

/// The number before a field, if there is one, and the rest. No name starts with a digit.
fn number_word(text: &'static str) -> (Option<&'static str>, &'static str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) if word.starts_with(|letter: char| letter.is_ascii_digit()) => {
            (Some(word), rest.trim_start())
        }
        _ => (None, text),
    }
}

/// `3`, `2.1` or `3?`.
fn field_number(word: &str) -> Result<FieldNumber, String> {
    let problem = |_| format!("what is the number {word}?");
    let plain = word.strip_suffix('?').unwrap_or(word);
    let (embedded, number) = match plain.split_once('.') {
        Some((embedded, number)) => (Some(embedded.parse().map_err(problem)?), number),
        None => (None, plain),
    };
    Ok(FieldNumber {
        embedded,
        number: number.parse().map_err(problem)?,
        explicit: plain.len() < word.len(),
    })
}

/// The next word, of which brackets are part with all that is in them; and the rest.
fn next_word(text: &'static str) -> (&'static str, &'static str) {
    let text = text.trim_start();
    let mut depth = 0_u32;
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            letter if letter.is_whitespace() && depth == 0 => return (&text[..index], text[index..].trim_start()),
            _ => {}
        }
    }
    (text, "")
}

fn shape(text: &str, package: &str, schema: &Schema) -> Result<Shape, String> {
    if let Some(item) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Ok(Shape::List(Box::new(shape(item, package, schema)?)));
    }
    if let Some(item) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return Ok(Shape::Map(Box::new(shape(item, package, schema)?)));
    }
    Ok(match text {
        "string" => Shape::String,
        "int32" => Shape::Integer(IntegerFormat::Int32),
        "int64" => Shape::Integer(IntegerFormat::Int64),
        "number" => Shape::Number,
        "bool" => Shape::Boolean,
        "quantity" => Shape::Quantity,
        "intOrString" => Shape::IntOrString,
        "time" => Shape::Time,
        "microTime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "bytes" => Shape::Bytes,
        "any" => Shape::Any,
        name => {
            let same_package = if name.contains('.') {
                None
            } else {
                find(&schema.types, package, name)
            };
            let reference = same_package
                .or_else(|| schema.find(name))
                .ok_or_else(|| format!("no type {name}"))?;
            Shape::Object(reference)
        }
    })
}
