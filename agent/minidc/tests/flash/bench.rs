//! A computer with an image and something that stands for cards, and `minidc flash` on it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use minidc_image::device::faulty::Memory;
use minidc_image::fat;
use minidc_image::layout::{self, Mbr, SELECTOR, Table};
use minidc_image::sample;
use minidc_image::seed::{self, Seed, Stage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Bytes of a card.
pub(crate) const CARD: u64 = 12 << 20;
/// Longest that anything here takes, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory with an image and a configuration folder.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
    pub(crate) complained: String,
}

impl Outcome {
    /// All that was said, after success.
    pub(crate) fn succeeded(&self) -> &str {
        assert!(self.status.success(), "{self:#?}");
        &self.said
    }

    /// The complaint, after a failure.
    pub(crate) fn failed(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:#?}");
        &self.complained
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::write(bench.path("minidc.img"), sample::image(&[]).unwrap()).unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the cluster's identity is kept.
    pub(crate) fn cluster(&self, name: &str) -> PathBuf {
        self.path("config/minidc/clusters").join(name)
    }

    /// A card that was used before, so that nothing good on it can be left over.
    pub(crate) fn card(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, Memory::used(usize::try_from(CARD).unwrap()).0).unwrap();
        path
    }

    /// The image, packed.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let contents = fs::read(self.path("minidc.img")).unwrap();
        ruzstd::encoding::compress_to_vec(&contents[..], ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// An image that takes a while to be written: the same, with a data partition up to `mebibytes`.
    pub(crate) fn large_image(&self, mebibytes: u64) -> PathBuf {
        let path = self.path("large.img");
        let mut contents = Memory(fs::read(self.path("minidc.img")).unwrap());
        layout::write(&sample::table().grown(mebibytes << 20), &mut contents).unwrap();
        fs::write(&path, contents.0).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minidc"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("KUBECONFIG")
            .env_remove("SUDO_UID")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `minidc ARGUMENTS…` with nobody at the keyboard.
    pub(crate) fn minidc(&self, arguments: &[&str]) -> Outcome {
        outcome(self.command(arguments))
    }

    /// Runs `minidc flash` for one board of rack1, which nobody is asked about.
    pub(crate) fn flash(&self, image: &str, device: &str, role: &str, name: &str, further: &[&str]) -> Outcome {
        self.minidc(&flash_words(image, device, role, name, further))
    }

    /// Runs `minidc flash` for boards of rack1 with somebody who answers.
    pub(crate) fn asked(&self, image: &str, device: &str, role: &str, name: &str, further: &[&str]) -> Session {
        let words: Vec<&str> = flash_words(image, device, role, name, further)
            .into_iter()
            .filter(|word| *word != "--yes")
            .collect();
        Session::start(self.command(&words))
    }
}

pub(crate) fn outcome(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        status: output.status,
        said: String::from_utf8(output.stdout).unwrap(),
        complained: String::from_utf8(output.stderr).unwrap(),
    }
}

fn flash_words<'a>(image: &'a str, device: &'a str, role: &'a str, name: &'a str, further: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec![
        "flash",
        image,
        "--device",
        device,
        "--cluster",
        "rack1",
        "--role",
        role,
        "--name",
        name,
        "--yes",
    ];
    words.extend(further);
    words
}

/// A running program with somebody at the keyboard.
pub(crate) struct Session {
    child: Child,
    keyboard: Option<ChildStdin>,
    heard: Arc<(Mutex<String>, Condvar)>,
    /// Bytes of what was heard that were dealt with.
    past: usize,
}

impl Session {
    fn start(mut command: Command) -> Self {
        // one pipe, so that what is said and what is complained about are heard in their order
        let (mut stream, end) = std::io::pipe().unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(end.try_clone().unwrap())
            .stderr(end);
        let mut child = command.spawn().unwrap();
        drop(command);
        let keyboard = child.stdin.take();
        let heard: Arc<(Mutex<String>, Condvar)> = Arc::default();
        let said = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                said.0.lock().unwrap().push_str(&text);
                said.1.notify_all();
            }
        });
        Self {
            child,
            keyboard,
            heard,
            past: 0,
        }
    }

    /// Waits until the program says this, after what was heard before.
    pub(crate) fn hears(&mut self, words: &str) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            if let Some(at) = heard[self.past..].find(words) {
                self.past += at + words.len();
                drop(heard);
                return self;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "did not hear {words:?} but\n{}", &heard[self.past..]);
            heard = self.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Types a line.
    pub(crate) fn types(&mut self, line: &str) -> &mut Self {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(format!("{line}\n").as_bytes()).unwrap();
        self
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupts(&mut self) -> &mut Self {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self
    }

    /// Leaves, and gives the exit code and all that was said.
    pub(crate) fn ends(&mut self) -> (Option<i32>, String) {
        drop(self.keyboard.take());
        let code = self.child.wait().unwrap().code();
        // the reader ends with its stream
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(&self.heard) > 1 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        (code, self.heard.0.lock().unwrap().clone())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a computer or a board would take it for a card.
pub(crate) fn looks_good(card: &Path) -> bool {
    let mut first = [0; 512];
    fs::File::open(card).unwrap().read_exact_at(&mut first, 0).unwrap();
    Mbr::parse(&first).is_ok()
}

/// Whether nothing was ever written to it.
pub(crate) fn is_untouched(card: &Path) -> bool {
    fs::read(card).unwrap() == Memory::used(usize::try_from(CARD).unwrap()).0
}

/// The seed of a finished card, after all else on it has been compared with the image.
pub(crate) fn seed_of(bench: &Bench, card: &Path) -> Seed {
    let mut card = Memory(fs::read(card).unwrap());
    let image = fs::read(bench.path("minidc.img")).unwrap();
    let table = Table::read(&mut card).unwrap();
    assert_eq!(table, sample::table());
    let selector = *table.get(SELECTOR).unwrap();
    let seed = fat::read(&mut card, &selector, seed::FILE).unwrap().unwrap();
    assert!(fat::read(&mut card, &selector, "autoboot.txt").unwrap().is_some());
    let (start, end) = (
        usize::try_from(selector.start).unwrap(),
        usize::try_from(selector.end()).unwrap(),
    );
    assert!(card.0[..start] == image[..start] && card.0[end..image.len()] == image[end..]);
    Seed::parse_bytes(&seed, Stage::FirstBoot).unwrap()
}
