//! The person at the keyboard: questions, a password that is not shown, and Ctrl-C at any moment.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        termios::{LocalFlags, SetArg, tcgetattr, tcsetattr},
    },
};

/// Standard input and the signals that ask for an end.
pub(super) struct Terminal {
    signals: SignalFd,
    typed: Vec<u8>,
    ended: bool,
}

impl Terminal {
    /// Takes SIGINT, SIGTERM and SIGHUP, which from now on end nothing by themselves: a card is given up in order.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            mask.add(signal);
        }
        let signals = mask
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
            .context("listen for Ctrl-C")?;
        Ok(Self {
            signals,
            typed: Vec::new(),
            ended: false,
        })
    }

    /// Whether an end was asked for since the last call.
    pub(super) fn interrupted(&self) -> bool {
        matches!(self.signals.read_signal(), Ok(Some(_)))
    }

    /// Asks for a line; `None` when nobody can answer.
    ///
    /// # Errors
    /// [`minidc_image::Error::Stopped`] on Ctrl-C.
    pub(super) fn ask(&mut self, question: &str) -> anyhow::Result<Option<String>> {
        let line = self.prompt(question)?;
        if !io::IsTerminal::is_terminal(&io::stdin()) {
            // nobody's Enter has ended the line
            println!();
        }
        Ok(line.map(|line| line.trim().to_owned()))
    }

    /// Asks a question that only yes answers with yes.
    ///
    /// # Errors
    /// As [`Terminal::ask`].
    pub(super) fn agrees(&mut self, question: &str) -> anyhow::Result<bool> {
        let answer = self.ask(&format!("{question} [y/N] "))?.unwrap_or_default();
        Ok(["y", "yes"].contains(&answer.to_ascii_lowercase().as_str()))
    }

    /// Asks for a line that is not shown.
    ///
    /// # Errors
    /// As [`Terminal::ask`].
    pub(super) fn ask_secret(&mut self, question: &str) -> anyhow::Result<Option<String>> {
        let stdin = io::stdin();
        let Ok(shown) = tcgetattr(&stdin) else {
            return self.prompt(question).inspect(|_| println!());
        };
        let mut hidden = shown.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &hidden).context("hide what is typed")?;
        let line = self.prompt(question);
        tcsetattr(&stdin, SetArg::TCSANOW, &shown).context("show again what is typed")?;
        println!();
        line
    }

    fn prompt(&mut self, question: &str) -> anyhow::Result<Option<String>> {
        print!("{question}");
        io::stdout().flush().ok();
        loop {
            if let Some(at) = self.typed.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.typed.drain(..=at).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()));
            }
            if self.ended {
                let rest = String::from_utf8_lossy(&std::mem::take(&mut self.typed)).into_owned();
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            self.wait()?;
        }
    }

    /// Takes more of what is typed.
    fn wait(&mut self) -> anyhow::Result<()> {
        let stdin = io::stdin();
        let mut files = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut files, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(()),
            other => other.context("wait for an answer")?,
        };
        let readable = files[0].any().unwrap_or(false);
        if self.interrupted() {
            println!();
            return Err(minidc_image::Error::Stopped.into());
        }
        if readable {
            let mut buffer = [0; 1024];
            match nix::unistd::read(&stdin, &mut buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.typed.extend(&buffer[..length]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error).context("read the answer"),
            }
        }
        Ok(())
    }
}
