//! QEMU's control socket.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection to a machine's QEMU. One at a time is served.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects.
    ///
    /// # Errors
    /// If QEMU does not answer.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        qmp.line().context("QEMU's greeting")?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU closed its control socket");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs a command and gives what it returns.
    ///
    /// # Errors
    /// If QEMU refuses it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            // Events come in between.
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }

    /// Runs a line of QEMU's monitor, such as `xp /1wx 0x3f200034`, and gives what it prints.
    ///
    /// # Errors
    /// If QEMU refuses it.
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        let printed = self.execute("human-monitor-command", &json!({"command-line": line}))?;
        Ok(printed.as_str().unwrap_or_default().to_owned())
    }
}
