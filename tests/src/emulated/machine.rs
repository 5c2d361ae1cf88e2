//! Boards in QEMU.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    card::{Card, Model},
    network::Network,
    qmp::Qmp,
};
use crate::eventually;

/// What is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// A Raspberry Pi 3 B: its SD host, USB, GPIO; four cores, 1 GB. The card gives 1.6 MB/s.
    Pi3,
    /// The same with the device tree of a Raspberry Pi Zero 2 W, which names the LED on the board.
    Zero2W,
    /// A machine without anything of a Pi, about twice as fast, with a fast disk; memory in MiB.
    Virt {
        /// Memory in MiB.
        memory: u32,
    },
}

/// How a machine is switched on.
#[derive(Clone, Debug)]
pub struct Power {
    /// The board.
    pub board: Board,
    /// Kernel parameters besides those of the card.
    pub parameters: Vec<String>,
    /// An archive (cpio) whose files are in the initrd besides the card's.
    pub archive: Option<PathBuf>,
}

impl Power {
    /// A board with what the card says.
    #[must_use]
    pub fn on(board: Board) -> Self {
        Self {
            board,
            parameters: Vec::new(),
            archive: None,
        }
    }

    /// With one more kernel parameter.
    #[must_use]
    pub fn with(mut self, parameter: &str) -> Self {
        self.parameters.push(parameter.to_owned());
        self
    }
}

/// A machine that is switched on. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    name: String,
    qemu: Child,
    started: Instant,
    serial: PathBuf,
    control: PathBuf,
}

impl Machine {
    /// Switches a machine on with a card in its slot. Its console goes to `directory/NAME.log`, which is begun anew.
    ///
    /// # Errors
    /// If the card would not boot or QEMU does not start.
    pub fn start(name: &str, card: &Card, network: &Network, directory: &Path, power: &Power) -> Result<Self> {
        let files = directory.join(format!("{name}-boot"));
        fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
        let model = match power.board {
            Board::Zero2W => Model::ZERO_2_W,
            Board::Pi3 | Board::Virt { .. } => Model::PI_3,
        };
        let mut boot = card.boot_files(&files, model)?;
        if let Some(archive) = &power.archive {
            let mut initrd = fs::read(archive)?;
            // the kernel looks for the next archive at the next word
            initrd.resize(initrd.len().next_multiple_of(4), 0);
            initrd.extend(fs::read(&boot.initrd)?);
            boot.initrd = files.join("initrd-with-archive");
            fs::write(&boot.initrd, initrd)?;
        }
        let serial = directory.join(format!("{name}.log"));
        let control = directory.join(format!("{name}.qmp"));
        for old in [&serial, &control] {
            let _ = fs::remove_file(old);
        }
        // The port's name is at most 15 characters.
        let port: String = name.chars().take(15).collect();
        network.remove_port(&port);
        network.port(&port)?;
        // A console that the machine has not would keep a later one of the same driver from being used.
        let keep = |parameter: &&str| !matches!(power.board, Board::Virt { .. }) || !parameter.starts_with("console=");
        let mut parameters: Vec<String> = boot.command_line.split(' ').filter(keep).map(String::from).collect();
        let mut command = network.on_switch("qemu-system-aarch64");
        let drive = format!("file={},format=raw,cache=unsafe", card.path().display());
        let hardware = hardware_address(name);
        command
            .args(["-name", name, "-display", "none", "-monitor", "none", "-no-reboot"])
            .args(["-accel", "tcg,thread=multi"])
            .arg("-kernel")
            .arg(&boot.kernel)
            .arg("-initrd")
            .arg(&boot.initrd)
            .args(["-netdev", &format!("tap,id=n0,ifname={port},script=no,downscript=no")])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", control.display())]);
        let console = format!("file:{}", serial.display());
        match power.board {
            Board::Pi3 | Board::Zero2W => {
                command.args(["-M", "raspi3b", "-dtb"]).arg(&boot.device_tree);
                command.args(["-drive", &format!("{drive},if=sd")]);
                command.args(["-device", &format!("usb-net,netdev=n0,mac={hardware}")]);
                // The second serial port is the one of the header.
                command.args(["-serial", "null", "-serial", &console]);
                // QEMU resets this board the moment its watchdog is started.
                parameters.extend(["console=ttyS1,115200", "systemd.watchdog_sec=0"].map(String::from));
            }
            Board::Virt { memory } => {
                command.args([
                    "-M",
                    "virt",
                    "-cpu",
                    "cortex-a72",
                    "-smp",
                    "4",
                    "-m",
                    &memory.to_string(),
                ]);
                command.args([
                    "-drive",
                    &format!("{drive},if=none,id=card"),
                    "-device",
                    "virtio-blk-pci,drive=card",
                ]);
                command.args(["-device", &format!("virtio-net-pci,netdev=n0,mac={hardware},romfile=")]);
                // As a Pi: no clock that went on while there was no power.
                command.args(["-rtc", "base=1970-01-01", "-serial", &console]);
                parameters.push("console=ttyAMA0".into());
            }
        }
        // An emulated card is slow: what a unit may take on hardware is not enough here.
        parameters.extend(
            [
                "systemd.default_device_timeout_sec=900",
                "systemd.default_timeout_start_sec=900",
                "TERM=dumb",
            ]
            .map(String::from),
        );
        parameters.extend(power.parameters.iter().cloned());
        command.args(["-append", &parameters.join(" ")]);
        let errors = directory.join(format!("{name}.qemu.log"));
        let qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).with_context(|| format!("create {}", errors.display()))?)
            .spawn()
            .context("start qemu-system-aarch64")?;
        let mut machine = Self {
            name: name.to_owned(),
            qemu,
            started: Instant::now(),
            serial,
            control,
        };
        eventually(Duration::from_secs(30), "QEMU's control socket", || {
            machine
                .alive()
                .with_context(|| fs::read_to_string(&errors).unwrap_or_default())?;
            Ok(machine.control.exists())
        })?;
        Ok(machine)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Time since it was switched on.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// All that the console showed.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// The last lines of the console, for a message.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().rev().take(25).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If QEMU ended or the kernel panicked, with the last lines of the console.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.qemu.try_wait()? {
            bail!("{}: QEMU ended, {status}\n{}", self.name, self.last_lines());
        }
        if self.console().contains("Kernel panic") {
            bail!("{}: the kernel panicked\n{}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// Waits until a condition holds, at most `limit`; a machine that ends meanwhile ends the wait.
    ///
    /// # Errors
    /// When the time is over or the machine is, with the last lines of the console.
    pub fn until(&mut self, limit: Duration, what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.alive()?;
            let answer = probe();
            if let Ok(true) = answer {
                return Ok(());
            }
            if Instant::now() > deadline {
                let why = answer.err().map(|error| format!(": {error:#}")).unwrap_or_default();
                bail!(
                    "{}: not within {limit:?}: {what}{why}\n{}",
                    self.name,
                    self.last_lines()
                );
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// QEMU's control socket.
    ///
    /// # Errors
    /// If QEMU does not answer.
    pub fn control(&self) -> Result<Qmp> {
        Qmp::connect(&self.control)
    }

    /// Cuts the power.
    pub fn cut(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // SIGKILL: what the machine had not written to its card is lost.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_file(&self.control);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A locally administered address, another one for each name.
fn hardware_address(name: &str) -> String {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, d] = hash.to_be_bytes();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
