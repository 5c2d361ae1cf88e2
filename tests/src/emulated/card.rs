//! Cards: image files of a card's size, read from outside as the Pi's firmware or a card reader would.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use minidc_image::{
    device::DeviceFile,
    fat,
    layout::{Partition, SECTOR, SELECTOR, Table},
};

use crate::run;

/// A model of the Pi, as the firmware and the kernel know it.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Section of `config.txt`.
    section: &'static str,
    /// Device tree where `config.txt` names none: the upstream kernel's own, and that of Raspberry Pi's kernel.
    device_trees: [&'static str; 2],
}

impl Model {
    /// A Raspberry Pi 3 B.
    pub const PI_3: Self = Self {
        section: "pi3",
        device_trees: ["bcm2837-rpi-3-b.dtb", "bcm2710-rpi-3-b.dtb"],
    };
    /// A Raspberry Pi Zero 2 W.
    pub const ZERO_2_W: Self = Self {
        section: "pi02",
        device_trees: ["bcm2837-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2-w.dtb"],
    };
}

/// A card in a file.
#[derive(Clone, Debug)]
pub struct Card {
    path: PathBuf,
}

/// What the firmware loads.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial root.
    pub initrd: PathBuf,
    /// Device tree of the model.
    pub device_tree: PathBuf,
    /// The kernel's parameters.
    pub command_line: String,
}

impl Card {
    /// A new card, empty. QEMU wants a power of two.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn blank(path: &Path, bytes: u64) -> Result<Self> {
        ensure!(bytes.is_power_of_two(), "{bytes} is no power of two");
        let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        file.set_len(bytes)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the card.
    ///
    /// # Errors
    /// If the file is gone.
    pub fn bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }

    /// Its partitions now.
    ///
    /// # Errors
    /// If there is no table of ours.
    pub fn table(&self) -> Result<Table> {
        let mut device = DeviceFile::open_to_read(&self.path)?;
        let table = Table::read(&mut device)?;
        table.check(self.bytes()?)?;
        Ok(table)
    }

    /// A partition now.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn partition(&self, number: u32) -> Result<Partition> {
        let table = self.table()?;
        table
            .get(number)
            .copied()
            .with_context(|| format!("there is no partition {number}"))
    }

    /// A file of the selector partition, if it is there.
    ///
    /// # Errors
    /// If the file system cannot be read, for example while it is being written.
    pub fn selector_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut device = DeviceFile::open_to_read(&self.path)?;
        Ok(fat::read(&mut device, &self.partition(SELECTOR)?, name)?)
    }

    /// Puts a file into the selector partition, as a person with a card reader would.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_selector_file(&self, name: &str, contents: &str) -> Result<()> {
        let partition = self.partition(SELECTOR)?;
        let mut device = DeviceFile::open(&self.path, false)?;
        let file = fat::File {
            name: name.to_owned(),
            contents: contents.as_bytes().to_vec(),
        };
        Ok(fat::write(&mut device, &partition, &[file])?)
    }

    /// A command that gets the bytes of a partition on its standard input.
    fn feed(&self, partition: u32, command: &[&str]) -> Result<Command> {
        let partition = self.partition(partition)?;
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                "dd if=\"$0\" bs=1M iflag=skip_bytes,count_bytes status=none skip=$1 count=$2 | { shift 2; \"$@\"; }",
            ])
            .arg(&self.path)
            .args([partition.start.to_string(), partition.bytes.to_string()])
            .args(command);
        Ok(shell)
    }

    /// SHA-256 of the bytes of a partition.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn checksum(&self, partition: u32) -> Result<String> {
        let printed = run(&mut self.feed(partition, &["sha256sum"])?)?;
        Ok(printed.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Whether a text stands anywhere in the bytes of a partition, deleted files included.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn has_bytes(&self, partition: u32, text: &str) -> Result<bool> {
        let status = self
            .feed(partition, &["grep", "-qaF", "-e", text])?
            .stdin(Stdio::null())
            .status()?;
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => bail!("grep in {}: {status}", self.path.display()),
        }
    }

    /// Loads what a Pi of this model would: the slot that `autoboot.txt` names, and of its `config.txt` what holds for the model. The
    /// files are copied to `directory`.
    ///
    /// # Errors
    /// If the firmware would find no kernel or initrd.
    pub fn boot_files(&self, directory: &Path, model: Model) -> Result<BootFiles> {
        let autoboot = self.selector_file("autoboot.txt")?.context("autoboot.txt is missing")?;
        let autoboot = settings(&String::from_utf8(autoboot)?, model.section);
        let slot: u32 = autoboot
            .get("boot_partition")
            .context("autoboot.txt names no slot")?
            .parse()?;
        let partition = self.partition(slot)?;
        ensure!(partition.start.is_multiple_of(SECTOR));
        let read = |name: &str| -> Result<PathBuf> {
            let to = directory.join(Path::new(name).file_name().context("a file without a name")?);
            run(Command::new("mcopy")
                .args([
                    "-n",
                    "-o",
                    "-i",
                    &format!("{}@@{}", self.path.display(), partition.start),
                ])
                .arg(format!("::{name}"))
                .arg(&to))
            .with_context(|| format!("read {name} of partition {slot}"))?;
            Ok(to)
        };
        let config = settings(&fs::read_to_string(read("config.txt")?)?, model.section);
        let named = |key: &str, otherwise: &str| config.get(key).map_or(otherwise, String::as_str).to_owned();
        let command_line = fs::read_to_string(read(&named("cmdline", "cmdline.txt"))?)?;
        Ok(BootFiles {
            kernel: read(&named("kernel", "kernel8.img"))?,
            initrd: read(config.get("initramfs").context("config.txt names no initramfs")?)?,
            // With `upstream_kernel` the firmware looks for the kernel's own names.
            device_tree: read(&named(
                "device_tree",
                match config.get("upstream_kernel").map(String::as_str) {
                    Some("1") => model.device_trees[0],
                    _ => model.device_trees[1],
                },
            ))?,
            command_line: command_line.trim().to_owned(),
        })
    }
}

/// The settings of a file in the firmware's format that hold for a model: `key=value`, `initramfs FILE followkernel`, and sections in
/// brackets. Sections that are about anything but the model, such as `[tryboot]`, do not hold.
fn settings(text: &str, model: &str) -> BTreeMap<String, String> {
    let mut holds = true;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            holds = section == "all" || section == model;
        } else if holds && !line.starts_with('#') {
            if let Some(file) = line.strip_prefix("initramfs ") {
                let file = file.split_whitespace().next().unwrap_or_default();
                found.insert("initramfs".to_owned(), file.to_owned());
            } else if let Some((key, value)) = line.split_once('=') {
                found.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_model() {
        let text = "# c\nkernel=a\n[pi3]\ndevice_tree=three.dtb\n[pi4]\ndevice_tree=four.dtb\n[tryboot]\nkernel=b\n[all]\ninitramfs initrd followkernel\n";
        let found = settings(text, "pi3");
        let expected = [("device_tree", "three.dtb"), ("initramfs", "initrd"), ("kernel", "a")];
        assert_eq!(
            found,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        );
    }
}
