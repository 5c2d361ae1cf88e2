//! Runs the host's programs.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::Error;

/// Runs a program to its end; returns what it printed.
///
/// # Errors
/// [`Error::Command`] with the first line of what it said on standard error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    feed(program, arguments, "")
}

/// Runs a program that reads `input`.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed = |detail: String| Error::Command {
        command: format!("{program} {}", arguments.join(" ")),
        detail,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses its first line closes its input early; what it says then is worth more than this error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let detail = said
        .lines()
        .find(|line| !line.trim().is_empty())
        .map_or_else(|| output.status.to_string(), str::to_owned);
    Err(failed(detail))
}

/// Runs several `ip` commands in a network namespace (`None`: the host's), in one process.
pub(crate) fn ip(namespace: Option<&str>, commands: &[String]) -> Result<(), Error> {
    let mut arguments = Vec::new();
    if let Some(namespace) = namespace {
        arguments.extend(["-n", namespace]);
    }
    arguments.extend(["-batch", "-"]);
    match feed("ip", &arguments, &(commands.join("\n") + "\n")) {
        Ok(_) => Ok(()),
        Err(Error::Command { detail, .. }) => Err(Error::Command {
            command: format!("ip ({})", commands.join("; ")),
            detail,
        }),
        Err(other) => Err(other),
    }
}

/// Whether a program can be found; also where only root looks.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .filter(|directory| !directory.is_empty())
        .any(|directory| Path::new(directory).join(program).is_file())
}
