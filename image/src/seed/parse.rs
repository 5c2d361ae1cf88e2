//! Reads the seed's file, and collects every mistake.

use std::ops::Range;

use jiff::Timestamp;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::{self, Wrong};
use super::{Authority, FILE, MOST, Membership, Problem, Role, Secret, Seed, Stage, Wifi};

/// Keys of each section; the first is what stands above all sections.
const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "cluster",
            "name",
            "role",
            "token",
            "ca_pin",
            "server",
            "ssh_keys",
            "time",
            "wifi",
            "authority",
        ],
    ),
    ("wifi", &["ssid", "password", "country"]),
    ("authority", &["ca_certificate", "ca_key", "join_key"]),
];

/// Times that lines which are no TOML are set aside: each takes at least one line away.
const ROUNDS: usize = 50;

/// Text of a file, whatever an editor did to it.
pub(super) fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    let problem = |message: &str| Problem {
        line: None,
        key: None,
        message: message.to_owned(),
    };
    if bytes.len() > MOST {
        return Err(problem("the file is larger than 64 KiB; it is not a seed"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(problem(
            "the file was saved as UTF-16 (\"Unicode\"); save it again with the encoding UTF-8",
        ));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        Problem {
            line: Some(before.iter().filter(|byte| **byte == b'\n').count() + 1),
            key: None,
            message: "there is a character that is not UTF-8; save the file again with the encoding UTF-8".into(),
        }
    })
}

pub(super) fn parse(text: &str, stage: Stage) -> Result<Seed, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MOST {
        return decode(text.as_bytes())
            .map(|_| ())
            .map_err(|problem| vec![problem])
            .and(Err(Vec::new()));
    }
    let mut reader = Reader {
        text,
        broken: false,
        problems: Vec::new(),
    };
    let readable = reader.readable();
    let (table, _) = DeTable::parse_recoverable(&readable);
    let seed = reader.seed(table.get_ref(), stage);
    let mut problems = reader.problems;
    match seed {
        Some(seed) if problems.is_empty() => Ok(seed),
        _ => {
            if problems.is_empty() {
                problems.push(Problem {
                    line: None,
                    key: None,
                    message: format!("{FILE} cannot be understood"),
                });
            }
            problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
            problems.dedup();
            Err(problems)
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    /// The file is not even TOML: what seems to be missing may be in the part that was not understood.
    broken: bool,
    problems: Vec<Problem>,
}

type Table<'t> = DeTable<'t>;
type Value<'t> = Spanned<DeValue<'t>>;

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn say(&mut self, span: Range<usize>, key: &str, message: impl Into<String>) {
        let line = Some(self.line(span.start));
        self.problems.push(Problem {
            line,
            key: Some(key.to_owned()),
            message: message.into(),
        });
    }

    fn missing(&mut self, key: &str, message: &str) {
        if !self.broken {
            self.problems.push(Problem {
                line: None,
                key: Some(key.to_owned()),
                message: message.to_owned(),
            });
        }
    }

    /// The text with blanks in place of the lines that are not TOML, each of which becomes a problem: after some mistakes the parser
    /// gives up on all that follows, and a person should hear of everything at once. Offsets stay what they were.
    fn readable(&mut self) -> String {
        let mut text = self.text.to_owned();
        for _ in 0..ROUNDS {
            let (_, errors) = DeTable::parse_recoverable(&text);
            if errors.is_empty() {
                break;
            }
            self.broken = true;
            let mut at: Vec<usize> = Vec::new();
            for error in &errors {
                self.syntax(error);
                at.extend(error.span().map(|span| span.start.min(text.len().saturating_sub(1))));
            }
            // Without the line that opens a long text, all its lines would be mistakes.
            if at.is_empty() || errors.iter().any(|error| error.message().contains("multi-line")) {
                break;
            }
            let before = text.clone();
            for at in at {
                text = without_line(&text, at);
            }
            if text == before {
                break;
            }
        }
        text
    }

    /// A line that is not TOML. The parser's words are kept, since they are good; common slips get better ones. The line itself is not
    /// shown: it may hold a password.
    fn syntax(&mut self, error: &toml::de::Error) {
        let at = error.span().map(|span| span.start);
        let line = at.map(|at| self.line(at));
        let content = line
            .and_then(|line| self.text.lines().nth(line - 1))
            .unwrap_or_default();
        let message = if content.contains(['“', '”', '„', '‘', '’', '«', '»']) {
            "this line has typographic quotes; use straight ones: \"".to_owned()
        } else if content.trim_start().starts_with("//") || content.trim_start().starts_with(';') {
            "a remark begins with #".to_owned()
        } else if error.message().contains("duplicate key") {
            "this key is there twice; keep one of them".to_owned()
        } else if !content.contains('=') && !content.trim_start().starts_with('[') {
            "this is not understood: each line has the form key = \"value\"".to_owned()
        } else if content.contains('\\') {
            format!(
                "this line is not understood ({}); a backslash in a text must be written twice",
                error.message()
            )
        } else {
            format!(
                "this line is not understood ({}); text stands between \"quotes\"",
                error.message()
            )
        };
        let problem = Problem {
            line,
            key: None,
            message,
        };
        // One mistake makes the parser complain several times about its line; the first is the best.
        if !self.problems.iter().any(|other| other.line == problem.line) {
            self.problems.push(problem);
        }
    }

    /// Says which keys of a section are unknown, with the nearest that is known.
    fn unknown(&mut self, section: &str, table: &Table<'_>) {
        let known = KEYS
            .iter()
            .find(|(name, _)| *name == section)
            .map_or(&[][..], |(_, keys)| *keys);
        for (key, _) in table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = hint(section, known, name);
            self.say(key.span(), &full(section, name), format!("there is no such key{hint}"));
        }
    }

    fn text<'v>(&mut self, key: &str, value: &'v Value<'_>) -> Option<&'v str> {
        let found = value.get_ref();
        let text = found.as_str();
        if text.is_none() {
            let kind = kind(found);
            self.say(
                value.span(),
                key,
                format!("it must be a text between \"quotes\", not {kind}"),
            );
        }
        text
    }

    /// A text that passes `check`; `None` with a problem otherwise.
    fn checked(
        &mut self,
        section: &str,
        table: &Table<'_>,
        name: &str,
        check: impl Fn(&str) -> Wrong,
    ) -> Option<String> {
        let value = table.get(name)?;
        let key = full(section, name);
        let text = self.text(&key, value)?;
        if let Some(wrong) = check(text) {
            self.say(value.span(), &key, wrong);
            return None;
        }
        Some(text.to_owned())
    }

    fn required(
        &mut self,
        section: &str,
        table: &Table<'_>,
        name: &str,
        missing: &str,
        check: impl Fn(&str) -> Wrong,
    ) -> Option<String> {
        match table.get(name) {
            None => self.missing(&full(section, name), missing),
            Some(value) if blank(value) => {
                self.say(
                    value.span(),
                    &full(section, name),
                    format!("this is still empty: {missing}"),
                );
                return None;
            }
            Some(_) => {}
        }
        self.checked(section, table, name, check)
    }

    /// Like [`Reader::checked`] for what may be left empty, as in the template.
    fn optional(&mut self, table: &Table<'_>, name: &str, check: impl Fn(&str) -> Wrong) -> Option<String> {
        if table.get(name).is_some_and(blank) {
            return None;
        }
        self.checked("", table, name, check)
    }

    fn texts(&mut self, table: &Table<'_>, name: &str, check: impl Fn(&str) -> Wrong) -> Vec<String> {
        let Some(value) = table.get(name) else {
            return Vec::new();
        };
        let Some(values) = value.get_ref().as_array() else {
            // One text in place of a list of one is what everybody writes.
            return self.optional(table, name, check).into_iter().collect();
        };
        let mut found = Vec::new();
        for value in values {
            let Some(text) = self.text(name, value) else {
                continue;
            };
            match check(text) {
                Some(wrong) => self.say(value.span(), name, wrong),
                None => found.push(text.to_owned()),
            }
        }
        found
    }

    fn section<'v, 't>(&mut self, table: &'v Table<'t>, name: &str) -> Option<(&'v Table<'t>, Range<usize>)> {
        let value = table.get(name)?;
        let Some(section) = value.get_ref().as_table() else {
            self.say(
                value.span(),
                name,
                format!("it must be a section: a line [{name}] with its keys below"),
            );
            return None;
        };
        self.unknown(name, section);
        Some((section, value.span()))
    }

    fn seed(&mut self, table: &Table<'_>, stage: Stage) -> Option<Seed> {
        self.unknown("", table);
        let label = |name: &str| values::wrong_label(name).map(|wrong| format!("{name:?} {wrong}"));
        let cluster = self.required(
            "",
            table,
            "cluster",
            "the name of the cluster is missing: cluster = \"…\"",
            label,
        );
        let node = self.required(
            "",
            table,
            "name",
            "the name of this board is missing: name = \"…\"",
            label,
        );
        let role = self
            .required(
                "",
                table,
                "role",
                "it is missing: role = \"server\" or role = \"node\"",
                |role| role.parse::<Role>().err(),
            )
            .and_then(|role| role.parse::<Role>().ok());
        let servers = self.texts(table, "server", values::wrong_server);
        let ssh_keys = self.texts(table, "ssh_keys", values::wrong_ssh_key);
        let time = self.time(table);
        let wifi = self.wifi(table);
        let token = self.optional(table, "token", values::wrong_token).map(Secret::new);
        let ca_pin = self.optional(table, "ca_pin", values::wrong_hex);
        let authority = self.authority(table);
        let mut moved_authority = None;
        let membership = match role? {
            Role::Server => {
                if let Some(value) = table.get("token").filter(|value| !blank(value)) {
                    self.say(
                        value.span(),
                        "token",
                        "a server joins nobody: remove this line, or write role = \"node\"",
                    );
                }
                moved_authority.clone_from(&ca_pin);
                Membership::Server(authority)
            }
            Role::Node => {
                if let Some(value) = table.get("authority") {
                    self.say(
                        value.span(),
                        "authority",
                        "only the server's card holds the cluster's identity: remove this section",
                    );
                }
                if stage == Stage::FirstBoot {
                    let needed = "a node needs a join token: token = \"minidc1…\" (\"minidc token create\" on the server makes one)";
                    match table.get("token") {
                        None => self.missing("token", needed),
                        Some(value) if blank(value) => self.say(value.span(), "token", needed),
                        Some(_) => {}
                    }
                }
                Membership::Node { token, ca_pin }
            }
        };
        Some(Seed {
            cluster: cluster?,
            node: node?,
            membership,
            moved_authority,
            servers,
            wifi,
            ssh_keys,
            time,
        })
    }

    fn time(&mut self, table: &Table<'_>) -> Option<Timestamp> {
        let value = table.get("time")?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            other => other.as_datetime().map(ToString::to_string).unwrap_or_default(),
        };
        match text.parse::<Timestamp>() {
            Ok(time) => {
                if let Some(wrong) = values::wrong_time(time) {
                    self.say(value.span(), "time", wrong);
                }
                Timestamp::from_second(time.as_second()).ok()
            }
            Err(_) => {
                self.say(
                    value.span(),
                    "time",
                    "it must be date, time and zone, as 2026-05-17T12:00:00Z",
                );
                None
            }
        }
    }

    fn wifi(&mut self, table: &Table<'_>) -> Option<Wifi> {
        let (section, _) = self.section(table, "wifi")?;
        if !section.is_empty() && section.iter().all(|(_, value)| blank(value)) {
            return None;
        }
        let ssid = self.required(
            "wifi",
            section,
            "ssid",
            "the name of the Wi-Fi network is missing",
            values::wrong_ssid,
        );
        let password = self
            .checked("wifi", section, "password", values::wrong_password)
            .map(Secret::new);
        let country = self.required(
            "wifi",
            section,
            "country",
            "it is missing: two capital letters of your country, such as \"DE\" or \"US\"; Wi-Fi stays off without",
            values::wrong_country,
        );
        Some(Wifi {
            ssid: ssid?,
            password,
            country: country?,
        })
    }

    fn authority(&mut self, table: &Table<'_>) -> Option<Authority> {
        let (section, _) = self.section(table, "authority")?;
        let together = "the cluster's identity is certificate, key and join key together; this one is missing";
        let ca_certificate = self.required("authority", section, "ca_certificate", together, |text| {
            values::wrong_pem(text, "CERTIFICATE")
        });
        let ca_key = self.required("authority", section, "ca_key", together, |text| {
            values::wrong_pem(text, "PRIVATE KEY")
        });
        let join_key = self.required("authority", section, "join_key", together, values::wrong_hex);
        Some(Authority {
            ca_certificate: ca_certificate?,
            ca_key: Secret::new(ca_key?),
            join_key: Secret::new(join_key?),
        })
    }
}

/// Whether it is a text that nobody has filled in.
fn blank(value: &Value<'_>) -> bool {
    value.get_ref().as_str().is_some_and(|text| text.trim().is_empty())
}

/// Puts blanks in place of the line around `at`.
fn without_line(text: &str, at: usize) -> String {
    let bytes = text.as_bytes();
    let start = bytes[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |before| before + 1);
    let end = bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(text.len(), |after| at + after);
    if start >= end {
        return text.to_owned();
    }
    format!("{}{}{}", &text[..start], " ".repeat(end - start), &text[end..])
}

fn full(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// What was probably meant.
fn hint(section: &str, known: &[&str], name: &str) -> String {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let nearest = known
        .iter()
        .map(|key| (strsim::damerau_levenshtein(key, &lower), *key))
        .min();
    if let Some((distance, key)) = nearest
        && distance <= (key.len() / 3).max(1)
    {
        return format!("; did you mean {key:?}?");
    }
    for (other, keys) in KEYS {
        if *other != section && keys.contains(&lower.as_str()) {
            return if other.is_empty() {
                format!("; {lower:?} belongs above the line [{section}], and above any other such line")
            } else {
                format!("; {lower:?} belongs below a line [{other}]")
            };
        }
    }
    match nearest {
        Some((_, key)) => format!("; the nearest is {key:?}, all are: {}", known.join(", ")),
        None => String::new(),
    }
}
