//! Label and field selectors, read and matched as `apimachinery/pkg/labels` and `pkg/fields` do.

use std::fmt;

use serde_json::{Map, Value};

use crate::validate::names;

mod field;

pub use field::{FieldSelector, FieldTerm};

/// Why a selector was refused; the texts are those of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// How a [`Requirement`] relates a key and its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key = value`
    Equals,
    /// `key == value`
    DoubleEquals,
    /// `key != value`; also true without the key
    NotEquals,
    /// `key in (a,b)`
    In,
    /// `key notin (a,b)`; also true without the key
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key > 1`
    GreaterThan,
    /// `key < 1`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Name of the label.
    pub key: String,
    /// The relation.
    pub operator: Operator,
    /// What it is compared with, sorted; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// All of some conditions on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, Error> {
        values.sort_unstable();
        values.dedup();
        let mut errors = names::qualified_name(key)
            .map(|message| format!("key: Invalid value: {}: {message}", crate::status::quote(key)))
            .into_iter()
            .collect::<Vec<_>>();
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (index, value) in values.iter().enumerate() {
                if value.parse::<i64>().is_err() {
                    errors.push(format!(
                        "values[{index}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                        crate::status::quote(value)
                    ));
                }
            }
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(message) = names::label_value(value) {
                errors.push(format!(
                    "values[{index}][{key}]: Invalid value: {}: {message}",
                    crate::status::quote(value)
                ));
            }
        }
        match errors.len() {
            0 => Ok(Self {
                key: key.to_owned(),
                operator,
                values,
            }),
            1 => Err(Error(errors.swap_remove(0))),
            _ => Err(Error(format!("[{}]", errors.join(", ")))),
        }
    }

    /// True when `value`, the label of that key if there is one, meets the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|listed| listed == value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let left = value.and_then(|value| value.parse::<i64>().ok());
                let right = self.values.first().and_then(|value| value.parse::<i64>().ok());
                match (left, right) {
                    (Some(left), Some(right)) if self.operator == Operator::GreaterThan => left > right,
                    (Some(left), Some(right)) => left < right,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.join(",");
        match self.operator {
            Operator::Equals => write!(formatter, "{key}={values}"),
            Operator::DoubleEquals => write!(formatter, "{key}=={values}"),
            Operator::NotEquals => write!(formatter, "{key}!={values}"),
            Operator::In => write!(formatter, "{key} in ({values})"),
            Operator::NotIn => write!(formatter, "{key} notin ({values})"),
            Operator::Exists => write!(formatter, "{key}"),
            Operator::DoesNotExist => write!(formatter, "!{key}"),
            Operator::GreaterThan => write!(formatter, "{key}>{values}"),
            Operator::LessThan => write!(formatter, "{key}<{values}"),
        }
    }
}

impl LabelSelector {
    /// Reads the string form, e.g. `app=web,tier in (a,b),!canary`. The empty string selects everything.
    ///
    /// # Errors
    /// The text is no selector, or a key or value is no valid label.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut requirements = Parser {
            tokens: tokens(text),
            position: 0,
        }
        .parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads a `metav1.LabelSelector`. An empty one selects everything, an absent one (`null`) nothing.
    ///
    /// # Errors
    /// An operator is unknown, or a key or value is no valid label.
    pub fn from_object(selector: &Value) -> Result<Self, Error> {
        let Value::Object(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut requirements = match selector.get("matchLabels") {
            Some(Value::Object(labels)) => equalities(labels)?,
            _ => Vec::new(),
        };
        for expression in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
            let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(Error(format!(
                        "{} is not a valid label selector operator",
                        crate::status::quote(other)
                    )));
                }
            };
            let values: Vec<String> = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let counted = matches!(operator, Operator::In | Operator::NotIn);
            if counted && values.is_empty() {
                return Err(Error(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned(),
                ));
            }
            if !counted && !values.is_empty() {
                return Err(Error(
                    "values set must be empty for exists and does not exist".to_owned(),
                ));
            }
            requirements.push(Requirement::new(key, operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Selects what carries all labels of a plain map, as a service's `spec.selector` does; an empty map selects nothing.
    ///
    /// # Errors
    /// A key or value is no valid label.
    pub fn from_labels(labels: &Map<String, Value>) -> Result<Self, Error> {
        if labels.is_empty() {
            return Ok(Self::nothing());
        }
        Ok(Self {
            requirements: equalities(labels)?,
            nothing: false,
        })
    }

    /// Selects nothing at all.
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// True when every object is selected, so that labels need not be looked at.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The conditions, sorted by key; all must hold.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// True when an object whose labels `label` looks up is selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// True when an object with this `metadata.labels` (or `null`) is selected.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            requirement.fmt(formatter)?;
        }
        Ok(())
    }
}

fn equalities(labels: &Map<String, Value>) -> Result<Vec<Requirement>, Error> {
    labels
        .iter()
        .map(|(key, value)| {
            Requirement::new(
                key,
                Operator::Equals,
                vec![value.as_str().unwrap_or_default().to_owned()],
            )
        })
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl Token<'_> {
    /// As error messages show it.
    fn literal(&self) -> &str {
        match self {
            Self::Word(text) | Self::Symbol(text) => text,
            Self::End => "",
        }
    }
}

const SYMBOLS: &[&str] = &["==", "!=", "!", "=", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            found.push(Token::End);
            return found;
        }
        let length = if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            found.push(Token::Symbol(symbol));
            symbol.len()
        } else {
            let length = rest
                .find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '<', '>'])
                .unwrap_or(rest.len());
            found.push(Token::Word(&rest[..length]));
            length
        };
        rest = &rest[length..];
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.position).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, Error> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self
                        .requirement()
                        .map_err(|error| Error(format!("unable to parse requirement: {error}")))?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => {
                                return Err(Error(format!(
                                    "found '{}', expected: identifier after ','",
                                    other.literal()
                                )));
                            }
                        },
                        other => {
                            return Err(Error(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.literal()
                            )));
                        }
                    }
                }
                Token::Symbol(other) => {
                    return Err(Error(format!(
                        "found '{other}', expected: !, identifier, or 'end of string'"
                    )));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let absent = self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(Error(format!("found '{}', expected: identifier", other.literal()))),
        };
        if let Some(message) = names::qualified_name(key) {
            return Err(Error(format!(
                "<nil>: Invalid value: {}: {message}",
                crate::status::quote(key)
            )));
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => {
                return Err(Error(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    other.literal()
                )));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.list()?,
            _ => vec![self.exact()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact(&mut self) -> Result<String, Error> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(value) => {
                self.next();
                Ok(value.to_owned())
            }
            Token::Symbol(other) => Err(Error(format!("found '{other}', expected: identifier"))),
        }
    }

    /// `(a,,b)`: an empty place is the empty value.
    fn list(&mut self) -> Result<Vec<String>, Error> {
        let open = self.next();
        if open != Token::Symbol("(") {
            return Err(Error(format!("found '{}' expected: '('", open.literal())));
        }
        let mut values = Vec::new();
        let mut word = None;
        loop {
            match self.next() {
                Token::Word(_) if word.is_some() => {
                    self.position -= 1;
                    return Err(Error(format!(
                        "found '{}', expected: ',' or ')'",
                        self.peek().literal()
                    )));
                }
                Token::Word(value) => word = Some(value),
                Token::Symbol(",") => values.push(word.take().unwrap_or_default().to_owned()),
                Token::Symbol(")") => {
                    values.push(word.unwrap_or_default().to_owned());
                    return Ok(values);
                }
                other if word.is_some() => {
                    return Err(Error(format!("found '{}', expected: ',' or ')'", other.literal())));
                }
                other => {
                    return Err(Error(format!(
                        "found '{}', expected: ',', or identifier",
                        other.literal()
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_select_what_kubectl_users_expect() {
        let labels = json!({"app": "web", "tier": "front", "n": "7", "empty": ""});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web", true),
            ("app=api", false),
            ("app!=api", true),
            ("missing!=x", true),
            ("missing=x", false),
            ("app in (api,web)", true),
            ("app in (api, db)", false),
            ("app notin (api)", true),
            ("missing notin (api)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("missing", false),
            ("app=web,tier=front", true),
            ("app=web,tier=back", false),
            ("app in (web),!missing , tier", true),
            ("n>6", true),
            ("n>7", false),
            ("n<8", true),
            ("app>1", false),
            ("empty=", true),
            ("empty in ()", true),
            ("empty in (,x)", true),
            ("app=,tier=front", false),
            ("in in (in)", false),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap().matches_labels(&labels),
                expected,
                "{selector}"
            );
        }
    }

    #[test]
    fn label_selector_errors_are_those_of_kubernetes() {
        for (selector, message) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            (
                "a in (b c)",
                "unable to parse requirement: found 'c', expected: ',' or ')'",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap_err().to_string(),
                message,
                "{selector}"
            );
        }
        assert!(LabelSelector::parse("a=-bad-").is_err());
        assert!(LabelSelector::parse("bad key!=x").is_err());
    }

    #[test]
    fn label_selector_objects_combine_labels_and_expressions() {
        let selector = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "canary", "operator": "DoesNotExist"}
            ]
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "app=web,!canary,tier in (back,front)");
        assert!(selector.matches_labels(&json!({"app": "web", "tier": "back"})));
        assert!(!selector.matches_labels(&json!({"app": "web", "tier": "back", "canary": "1"})));
        assert!(LabelSelector::from_object(&json!({})).unwrap().is_everything());
        assert!(
            !LabelSelector::from_object(&Value::Null)
                .unwrap()
                .matches_labels(&json!({}))
        );
        assert_eq!(
            LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]}))
                .unwrap_err()
                .to_string(),
            "\"Gt\" is not a valid label selector operator"
        );
    }
}
