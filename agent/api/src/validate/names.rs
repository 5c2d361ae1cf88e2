//! The forms that names, labels and keys must have. Each check gives the text of Kubernetes for what is wrong.
//!
//! Written by hand rather than with regular expressions: the engine alone would add a megabyte to the program.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn regex(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
    format!(
        "{message} (e.g. {}, regex used for validation is '{pattern}')",
        examples.join(",  or ")
    )
}

fn is_lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, whatever its length.
fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().copied().is_some_and(is_lower_or_digit)
        && bytes.last().copied().is_some_and(is_lower_or_digit)
        && bytes.iter().all(|byte| is_lower_or_digit(*byte) || *byte == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn joined(messages: &[String]) -> Option<String> {
    if messages.is_empty() {
        None
    } else {
        Some(messages.join("; "))
    }
}

/// A label of a domain name: at most 63 of `a-z0-9-`.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 63 {
        messages.push(too_long(63));
    }
    if !is_label(value) {
        messages.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// A domain name: labels with dots between, at most 253 characters.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 253 {
        messages.push(too_long(253));
    }
    if !is_subdomain(value) {
        let pattern = format!("{LABEL}(\\.{LABEL})*");
        messages.push(regex(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &pattern,
            &["example.com"],
        ));
    }
    messages
}

/// A name of a service: a label that starts with a letter.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 63 {
        messages.push(too_long(63));
    }
    if !is_label(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        messages.push(regex(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

fn is_key_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// What is wrong with the key of a label, annotation, taint or finalizer: `name` or `example.com/name`.
pub fn label_key(value: &str) -> Vec<String> {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let pattern = || regex(RULE, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
    let mut messages = Vec::new();
    let mut parts = value.split('/');
    let (prefix, name) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => (None, name),
        (Some(prefix), Some(name), None) => (Some(prefix), name),
        _ => {
            let rule = pattern();
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    match prefix {
        Some("") => messages.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            messages.extend(
                dns_subdomain(prefix)
                    .into_iter()
                    .map(|message| format!("prefix part {message}")),
            );
        }
        None => {}
    }
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        messages.push(format!("name part {}", too_long(63)));
    }
    if !is_key_part(name) {
        messages.push(format!("name part {}", pattern()));
    }
    messages
}

/// As [`label_key`], all messages in one.
pub fn qualified_name(value: &str) -> Option<String> {
    joined(&label_key(value))
}

/// What is wrong with the value of a label.
pub fn label_value(value: &str) -> Option<String> {
    let mut messages = Vec::new();
    if value.len() > 63 {
        messages.push(too_long(63));
    }
    if !value.is_empty() && !is_key_part(value) {
        messages.push(regex(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    joined(&messages)
}

/// What is wrong with a key of a config map or secret; it becomes a file name.
pub fn data_key(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 253 {
        messages.push(too_long(253));
    }
    if value.is_empty()
        || !value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    {
        messages.push(regex(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    messages.extend(parent_prefix(value));
    messages
}

fn parent_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// What is wrong with the name of an environment variable.
pub fn environment_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.is_empty() {
        messages.push("environment variable name must be non-empty".to_owned());
    }
    if !value
        .chars()
        .all(|character| (' '..='~').contains(&character) && character != '=')
    {
        messages.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    messages
}

/// What is wrong with the name of a port: at most 15 of `a-z0-9-`, at least one letter.
pub fn port_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 15 {
        messages.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|byte| is_lower_or_digit(byte) || byte == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// What is wrong with the name of an HTTP header.
pub fn header_name(value: &str) -> Option<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    Some(regex(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    ))
}

/// True for the name of a kernel parameter, with dots or slashes between its parts.
pub fn is_sysctl(value: &str) -> bool {
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().copied().is_some_and(is_lower_or_digit)
            && bytes.last().copied().is_some_and(is_lower_or_digit)
            && bytes
                .iter()
                .all(|byte| is_lower_or_digit(*byte) || b"-_".contains(byte))
    };
    value.len() <= 253 && value.split(['.', '/']).all(part)
}

/// A prefix for a generated name: a trailing dash is fine, since more follows.
pub fn masked(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        // The character before the dash is swallowed too, as in Kubernetes, so that `a--` passes.
        Some(rest) if !rest.is_empty() => {
            let mut masked: String = rest.to_owned();
            masked.pop();
            masked.push('a');
            masked
        }
        _ => prefix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        for good in ["a", "web-1", "1a", &"a".repeat(63)] {
            assert!(dns_label(good).is_empty(), "{good}");
        }
        assert_eq!(
            dns_label("Web"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(dns_subdomain("a.b-c.d1").is_empty());
        assert_eq!(
            dns_subdomain("a..b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert!(dns1035_label("a1").is_empty());
        assert!(!dns1035_label("1a").is_empty());
        assert!(!dns1035_label("").is_empty());
    }

    #[test]
    fn keys_and_values() {
        for good in ["a", "My.Name_1", "example.com/a"] {
            assert!(label_key(good).is_empty(), "{good}");
        }
        assert_eq!(label_key("/a"), ["prefix part must be non-empty"]);
        assert_eq!(label_key("a/").len(), 2);
        assert!(label_key("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(label_value(""), None);
        assert_eq!(label_value("a_b.c-1"), None);
        assert!(label_value("a b").is_some());
        assert!(label_value(&"a".repeat(64)).is_some());
        assert!(data_key("nginx.conf").is_empty());
        assert_eq!(data_key(".."), ["must not be '..'"]);
        assert_eq!(data_key("a/b").len(), 1);
        assert!(environment_name("A B.c-1").is_empty());
        assert!(!environment_name("A=").is_empty());
        assert!(port_name("http-1").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_name("waytoolongportname"), ["must be no more than 15 characters"]);
    }

    #[test]
    fn a_generated_name_may_end_its_prefix_with_a_dash() {
        assert!(dns_subdomain(&masked("web-")).is_empty());
        assert_eq!(masked("-"), "-");
    }
}
