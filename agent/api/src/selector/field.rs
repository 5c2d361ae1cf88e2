//! Field selectors.

use std::fmt;

use super::Error;
use crate::kinds::Kind;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path of the field, e.g. `spec.nodeName`.
    pub field: String,
    /// `false` for `!=`.
    pub equal: bool,
    /// The value compared with.
    pub value: String,
}

/// All of some conditions on fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads the string form, e.g. `spec.nodeName=pi-1,status.phase!=Failed`. The empty string selects everything.
    ///
    /// # Errors
    /// The text is no field selector.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let cannot = || Error(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let at = part.find(['!', '=']).ok_or_else(cannot)?;
            let (field, rest) = part.split_at(at);
            let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
                (false, value)
            } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
                (true, value)
            } else {
                return Err(cannot());
            };
            terms.push(FieldTerm {
                field: field.to_owned(),
                equal,
                value: unescape(value)?,
            });
        }
        Ok(Self { terms })
    }

    /// True when every object is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The conditions; all must hold.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The value that `field` must have, if the selector demands exactly one: a list by name can then be a get.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.field == field)
            .map(|term| term.value.as_str())
    }

    /// Refuses fields that objects of this kind cannot be selected by.
    ///
    /// # Errors
    /// A field is neither the name, the namespace nor in the kind's row.
    pub fn check(&self, kind: &Kind) -> Result<(), Error> {
        for term in &self.terms {
            let field = term.field.as_str();
            let known = field == "metadata.name" || field == "metadata.namespace" || kind.fields.contains(&field);
            if !known && kind.fields.is_empty() {
                return Err(Error(format!(
                    "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    crate::status::quote(field)
                )));
            }
            if !known {
                return Err(Error(format!("field label not supported: {field}")));
            }
        }
        Ok(())
    }

    /// True when an object whose fields `field` looks up is selected; an absent field counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|term| (field(&term.field).unwrap_or_default() == term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(
                formatter,
                "{}{}{value}",
                term.field,
                if term.equal { "=" } else { "!=" }
            )?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash stands before.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, Error> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(Error(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(Error(format!(
                    "invalid field selector: unescaped character in value: {}",
                    character as u32
                )));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors_compare_fields() {
        let selector = FieldSelector::parse("spec.nodeName=pi-1,status.phase!=Failed").unwrap();
        let lookup = |node: &'static str, phase: &'static str| {
            move |field: &str| match field {
                "spec.nodeName" => Some(node),
                "status.phase" => Some(phase),
                _ => None,
            }
        };
        assert!(selector.matches(lookup("pi-1", "Running")));
        assert!(!selector.matches(lookup("pi-1", "Failed")));
        assert!(!selector.matches(lookup("pi-2", "Running")));
        assert_eq!(selector.exact("spec.nodeName"), Some("pi-1"));
        assert_eq!(selector.exact("status.phase"), None);
        assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(|_| None));
        assert_eq!(
            FieldSelector::parse(r"a=b\,c\=d\\").unwrap().terms()[0].value,
            r"b,c=d\"
        );
    }

    #[test]
    fn field_selector_errors_are_those_of_kubernetes() {
        assert_eq!(
            FieldSelector::parse("a").unwrap_err().to_string(),
            "invalid selector: 'a'; can't understand 'a'"
        );
        assert_eq!(
            FieldSelector::parse(r"a=\b").unwrap_err().to_string(),
            r"invalid field selector: invalid escape sequence: \b"
        );
        let pods = crate::kinds::by_resource("", "v1", "pods").unwrap();
        let config_maps = crate::kinds::by_resource("", "v1", "configmaps").unwrap();
        let selector = FieldSelector::parse("spec.foo=1").unwrap();
        assert_eq!(
            selector.check(pods).unwrap_err().to_string(),
            "field label not supported: spec.foo"
        );
        assert_eq!(
            selector.check(config_maps).unwrap_err().to_string(),
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert!(
            FieldSelector::parse("metadata.name=a")
                .unwrap()
                .check(config_maps)
                .is_ok()
        );
    }
}
