//! `minidc boot …`: what the units of our image call before the network is up. Works on image files and directories as well.

use std::{
    io::{self, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use minidc_image::{
    boot::disk::Root,
    device::DeviceFile,
    layout::{self, DATA, SECTOR},
};

use crate::{
    boot::{
        PROBLEM, RUN, STAGES, TROUBLE, Trouble,
        adopt::{Card, Taken, take},
        configure, files, note_stage,
    },
    cli::BootCommand,
    clock::{self, Kept},
};

/// In [`RUN`]: the device of the root, from our initrd.
const ROOT: &str = "root";
/// How long a card reader may take to show the card.
const PATIENCE: Duration = Duration::from_secs(10);
/// The seed is refused, and the one before is used.
const GOES_ON: u8 = 2;
/// There is nothing to start.
const WAITS: u8 = 3;

/// Runs one `boot` subcommand.
pub(crate) fn run(command: BootCommand) -> anyhow::Result<ExitCode> {
    match command {
        BootCommand::Grow { card } => grow(card).map(|()| ExitCode::SUCCESS),
        BootCommand::Seed { card, data, root } => seed(card, &data, &root),
    }
}

/// The card, or the disk that this system was started from.
fn find_card(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(card) = given {
        return Ok(card);
    }
    // what the initrd has really mounted: another card of ours in a reader has the same signature
    let line = match std::fs::read_to_string(Path::new("/").join(RUN).join(ROOT)) {
        Ok(device) => format!("root={}", device.trim()),
        Err(_) => std::fs::read_to_string("/proc/cmdline").context("read the kernel's command line")?,
    };
    let root = Root::of_command_line(&line)
        .with_context(|| format!("nothing says what this system was started from: {}", line.trim()))?;
    let begin = Instant::now();
    loop {
        if let Some(disk) = root.disk(Path::new("/sys"), Path::new("/dev")) {
            return Ok(disk);
        }
        if begin.elapsed() > PATIENCE {
            bail!("no disk shows the root that the kernel was given ({root:?})");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn open(card: &Path) -> Result<DeviceFile, String> {
    DeviceFile::open(card, false).map_err(|error| error.explain())
}

fn grow(card: Option<PathBuf>) -> anyhow::Result<()> {
    let begun = Instant::now();
    let is_own = card.is_none();
    let path = find_card(card)?;
    let mut target = open(&path).map_err(anyhow::Error::msg)?;
    let growth = layout::grow(&mut target).map_err(|error| anyhow::anyhow!(error.explain()))?;
    let is_disk = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device());
    if is_disk {
        tell_kernel(&path, growth.data)?;
    }
    if growth.is_new() {
        println!(
            "the data partition of {} has {} MiB now, before {} ({:.2} s)",
            path.display(),
            growth.data.bytes >> 20,
            growth.before >> 20,
            begun.elapsed().as_secs_f64()
        );
    }
    if is_own {
        let run = Path::new("/").join(RUN);
        std::fs::create_dir_all(&run).with_context(|| format!("make {}", run.display()))?;
        note_stage(&run.join(STAGES), "grow");
    }
    Ok(())
}

/// Makes the kernel know the partition's size, which it read before the table was changed. The partition may be in use.
fn tell_kernel(disk: &Path, data: layout::Partition) -> anyhow::Result<()> {
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let between = if name.ends_with(|last: char| last.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    let known = PathBuf::from(format!("/sys/class/block/{name}{between}{DATA}/size"));
    let sectors = (data.bytes / SECTOR).to_string();
    match std::fs::read_to_string(&known) {
        Ok(size) if size.trim() == sectors => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", known.display())),
    }
    // util-linux; it makes the one call (BLKPG_RESIZE_PARTITION) that this program, without `unsafe`, cannot
    let status = Command::new("resizepart")
        .arg(disk)
        .args([&DATA.to_string(), &sectors])
        .status()
        .context("run resizepart (package util-linux)")?;
    if !status.success() {
        bail!("the kernel does not take the new size of partition {DATA}: {status}; it does at the next start");
    }
    Ok(())
}

/// Whether the directory is where something is mounted.
fn is_mount_point(directory: &Path) -> io::Result<bool> {
    let own = std::fs::metadata(directory)?;
    let above = std::fs::metadata(directory.join(".."))?;
    Ok(own.dev() != above.dev())
}

fn seed(given: Option<PathBuf>, data: &Path, root: &Path) -> anyhow::Result<ExitCode> {
    let is_real = root == Path::new("/");
    let run = root.join(RUN);
    std::fs::create_dir_all(&run).with_context(|| format!("make {}", run.display()))?;
    let must_be_mounted = is_real && given.is_none();
    let card = find_card(given)
        .map_err(|error| format!("{error:#}"))
        .and_then(|path| open(&path));
    let mut card = card.map_err(|why| format!("the card cannot be read: {why}"));

    let missing = match is_mount_point(data) {
        _ if !must_be_mounted => None,
        Ok(true) => None,
        Ok(false) => Some("it is not mounted: the partition is missing or its file system is damaged".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let taken = match missing {
        Some(reason) => Err(reason),
        None => take(selector(&mut card), data, &mut |_| Ok(())).map_err(|error| format!("{error:#}")),
    };
    note_stage(&run.join(STAGES), "seed-read");
    let taken = match taken {
        Ok(taken) => taken,
        Err(reason) => {
            let text = data_report(data, &reason);
            tell(&run, &mut card, Some((Trouble::Data, &text)))?;
            note_stage(&run.join(STAGES), "seed-done");
            return Ok(ExitCode::from(WAITS));
        }
    };
    let report = taken.report();
    tell(&run, &mut card, report.as_deref().map(|text| (Trouble::Seed, text)))?;
    let Taken {
        seed: Some(seed),
        problems,
    } = taken
    else {
        note_stage(&run.join(STAGES), "seed-done");
        return Ok(ExitCode::from(WAITS));
    };
    if is_real {
        let mut kept = Kept::new(data);
        kept.seed = clock::time(&seed).or(kept.seed);
        match clock::lift(kept.floor()) {
            Ok(Some(behind)) => println!("the clock was {behind} s behind what can be true, and was set"),
            Ok(None) => {}
            Err(error) => eprintln!("{error:#}"),
        }
        nix::unistd::sethostname(&seed.node).context("set the host name")?;
    }
    configure::write(root, data, &seed)?;
    println!(
        "this board is {}, {} of cluster {}",
        seed.node,
        seed.membership.role(),
        seed.cluster
    );
    note_stage(&run.join(STAGES), "seed-done");
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(GOES_ON)
    })
}

fn selector(card: &mut Result<DeviceFile, String>) -> Result<Card<'_>, String> {
    match card {
        Ok(target) => Card::new(target).map_err(|error| format!("the card cannot be read: {}", error.explain())),
        Err(why) => Err(why.clone()),
    }
}

fn data_report(data: &Path, reason: &str) -> String {
    format!(
        "This board did not start, because its data partition ({}) cannot be used:\n\n  - {reason}\n\n\
         Nothing was changed, and nothing is formatted without your word. If the partition is only damaged, a computer with Linux may mend it\n\
         (e2fsck on the card's seventh partition). Otherwise flash the card anew: a node joins again with a fresh card; of a server,\n\
         what only this card held is lost.\n",
        data.display()
    )
    .replace('\n', "\r\n")
}

/// Tells a person of a problem, or that there is none: on the card, on the console, and to what runs later.
fn tell(run: &Path, card: &mut Result<DeviceFile, String>, trouble: Option<(Trouble, &str)>) -> anyhow::Result<()> {
    let text = trouble.map(|(_, text)| text);
    if let Ok(mut card) = selector(card)
        && let Err(error) = card.report(text)
    {
        eprintln!(
            "the problem file on the card is not as it should be: {}",
            error.explain()
        );
    }
    let (kind, problem) = (run.join(TROUBLE), run.join(PROBLEM));
    match trouble {
        None => {
            files::remove(&kind).with_context(|| format!("remove {}", kind.display()))?;
            files::remove(&problem).with_context(|| format!("remove {}", problem.display()))
        }
        Some((trouble, text)) => {
            let text = text.replace("\r\n", "\n");
            let _ = io::stderr().write_all(text.as_bytes());
            files::write(&problem, text.as_bytes(), 0o644)?;
            files::write(&kind, format!("{}\n", trouble.word()).as_bytes(), 0o644)
        }
    }
}
