//! Mistakes in a seed, for people.

use std::fmt;

use super::FILE;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1; `None` when something is missing.
    pub line: Option<usize>,
    /// Key it is about, as `wifi.country`.
    pub key: Option<String>,
    /// What is wrong and what to write instead. Never contains a secret.
    pub message: String,
}

impl Problem {
    /// Finds the line of its key, if it does not know it: who judges what a file says need not know where.
    #[must_use]
    pub fn located(mut self, text: &str) -> Self {
        if let (None, Some(key)) = (self.line, &self.key) {
            self.line = text.lines().position(|line| holds(line, key)).map(|index| index + 1);
        }
        self
    }
}

/// Whether a line gives the key a value, or opens the section of this name.
fn holds(line: &str, key: &str) -> bool {
    let line = line.trim_start();
    match line.strip_prefix('[') {
        Some(section) => section.split(']').next().is_some_and(|name| name.trim() == key),
        None => line
            .strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with('=')),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// All of them, one a line, each with the file's name.
pub fn listed(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("{FILE}: {problem}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a board does that cannot use its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// It waits.
    Waits,
    /// It goes on with the seed before.
    GoesOn,
}

/// Contents of the text file beside the seed. Lines end as Notepad of any age wants them.
pub fn report(problems: &[Problem], aftermath: Aftermath) -> String {
    let mistakes = match problems.len() {
        1 => "is one mistake".to_owned(),
        count => format!("are {count} mistakes"),
    };
    let consequence = match aftermath {
        Aftermath::Waits => "This board did not start, because",
        Aftermath::GoesOn => "This board goes on with what it was told before, because",
    };
    let mut text = format!("{consequence} there {mistakes} in the file {FILE} on this card:\n\n");
    for problem in problems {
        text.push_str(&format!("  - {problem}\n"));
    }
    text.push_str(&format!(
        "\nOpen {FILE} with any text editor, correct what is listed, save it, and put the card back into the board.\n\
         This file disappears when {FILE} is in order.\n"
    ));
    text.replace('\n', "\r\n")
}
