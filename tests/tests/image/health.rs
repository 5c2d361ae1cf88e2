//! What must be so on a board that has booted.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use minidc_tests::{emulated::Card, run};
use serde_json::Value;

use crate::world::{CARD, MOMENT, PIS, Rack, World};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "no_secret_stays_on_the_selector_partition",
        no_secret_stays_on_the_selector_partition,
    ),
    ("the_system_is_sound", |world| world.with_rack(is_sound)),
    ("the_network_is_sound", |world| world.with_rack(network_is_sound)),
    (
        "system_partitions_are_never_written_to",
        system_partitions_are_never_written_to,
    ),
    ("data_has_the_whole_card", data_has_the_whole_card),
    ("a_gigabyte_is_mostly_free", a_gigabyte_is_mostly_free),
];

fn no_secret_stays_on_the_selector_partition(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        for (index, (name, secrets)) in PIS.into_iter().zip(&rack.secrets).enumerate() {
            let card = &rack.cards[index];
            for secret in secrets {
                // The guest's cache may hold the new seed for some seconds.
                rack.machines[index].until(MOMENT, "secrets gone from the card", || Ok(!card.has_bytes(1, secret)?))?;
            }
            let seed = card.selector_file("minidc.toml")?.context("the seed is gone")?;
            let seed = String::from_utf8(seed)?;
            ensure!(seed.contains(&format!("name = \"{name}\"")), "{seed}");
            ensure!(
                card.selector_file("minidc-problem.txt")?.is_none(),
                "{name} has a problem with its seed"
            );
        }
        Ok(())
    })
}

/// Questions to a board, with what must be answered.
const QUESTIONS: [(&str, &str, &str); 14] = [
    // An emulated processor that is given no time counts as locked up.
    (
        "the kernel is well",
        "journalctl -kb -o cat | grep -E 'Oops|BUG:|Internal error|Out of memory' | grep -vc 'soft lockup'",
        "0",
    ),
    (
        "the kernel takes all rules of Services",
        "journalctl -b -u minidc -o cat | grep -c 'service rules.*error'",
        "0",
    ),
    ("no unit failed", "systemctl --failed --no-legend --plain | wc -l", "0"),
    ("systemd is content", "systemctl is-system-running", "running"),
    ("the root is a memory overlay", "findmnt -no FSTYPE /", "overlay"),
    (
        "data is a file system of its own",
        "findmnt -no FSTYPE /var/lib/minidc",
        "ext4",
    ),
    (
        "nothing else of the card is mounted to be written to",
        "findmnt -rno SOURCE,TARGET,OPTIONS | grep '^/dev/' | grep -v ' /var/lib/minidc' | grep -c ' rw[, ]'",
        "0",
    ),
    (
        "the journal is in memory",
        "ls -d /var/log/journal 2>/dev/null | wc -l; ls /run/log/journal | wc -l",
        "0\n1",
    ),
    ("no swap on the card", "grep -c mmcblk /proc/swaps", "0"),
    (
        "pods can be limited in memory",
        "grep -cw memory /sys/fs/cgroup/cgroup.controllers",
        "1",
    ),
    (
        "nobody has a password",
        "cut -d: -f2 /etc/shadow | grep -vc '^[!*]'",
        "0",
    ),
    (
        "no password opens SSH",
        "sshd -T 2>/dev/null | grep -E '^(passwordauthentication|kbdinteractiveauthentication) ' | grep -c yes",
        "0",
    ),
    (
        "keys are for root only",
        "find /var/lib/minidc -xdev -type f \\( -name '*.key' -o -name '*token*' \\) -perm /077 | wc -l",
        "0",
    ),
    (
        "the watchdog is to be used",
        "cat /etc/systemd/system.conf.d/* | grep -c ^RuntimeWatchdogSec",
        "1",
    ),
];

/// Asks both boards.
pub(crate) fn is_sound(rack: &mut Rack) -> Result<()> {
    let script: Vec<String> = QUESTIONS
        .iter()
        .map(|(_, question, _)| format!("{{ {question}; }} 2>&1; echo ---"))
        .collect();
    let mut wrong = Vec::new();
    for (index, name) in PIS.into_iter().enumerate() {
        let Rack {
            laptop,
            machines,
            flashed,
            ..
        } = &mut *rack;
        let address = laptop.address(name)?;
        // A slow board is still starting things when its node is Ready.
        machines[index].until(MOMENT, "systemd to have started everything", || {
            Ok(laptop.ssh(&address, "systemctl is-system-running || true")?.trim() != "starting")
        })?;
        let answers = laptop.ssh(&address, &script.join("\n"))?;
        for ((what, _, expected), answer) in QUESTIONS.iter().zip(answers.split("---\n")) {
            if answer.trim() != *expected {
                wrong.push(format!("{name}: {what}: {:?}, not {expected:?}", answer.trim()));
            }
        }
        let host = laptop.ssh(
            &address,
            "hostname; systemctl --failed --no-legend; journalctl -b -p warning -n 40 --no-pager",
        )?;
        ensure!(host.lines().next() == Some(name), "{host}");
        // It has no clock chip; each start begins with the time when the card was made, or later.
        let clock: u64 = laptop.ssh(&address, "date +%s")?.trim().parse()?;
        if clock < *flashed {
            wrong.push(format!(
                "{name}: the clock says {clock}, the card was made at {flashed}"
            ));
        }
        if !wrong.is_empty() {
            println!("{host}");
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// What a node says of its network, and what its lights say, which comes and goes with the silences of an emulated board: all is well
/// at last.
pub(crate) fn network_is_sound(rack: &mut Rack) -> Result<()> {
    for (index, name) in PIS.into_iter().enumerate() {
        let Rack { laptop, machines, .. } = &mut *rack;
        let address = laptop.address(name)?;
        machines[index].until(MOMENT * 2, "network and lights to be well", || {
            laptop.has_network(name)?;
            let shown = laptop.ssh(&address, "cat /run/minidc/leds.json")?;
            let shown: Value = serde_json::from_str(&shown)?;
            ensure!(shown["reason"] == "ready", "the lights say: {}", shown["meaning"]);
            Ok(true)
        })?;
    }
    Ok(())
}

fn system_partitions_are_never_written_to(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        for ((name, card), untouched) in PIS.into_iter().zip(&rack.cards).zip(&rack.untouched) {
            for (number, checksum) in untouched {
                ensure!(
                    card.checksum(*number)? == *checksum,
                    "{name}: partition {number} is not as flashed"
                );
            }
        }
        Ok(())
    })
}

fn data_has_the_whole_card(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        for (name, card) in PIS.into_iter().zip(&rack.cards) {
            let data = card.partition(7)?;
            ensure!(data.end() == CARD, "{name}: {data} of a card of {CARD} bytes");
            let printed = rack.ssh(name, "df --output=size -B1 /var/lib/minidc | tail -n 1")?;
            let size: u64 = printed.trim().parse()?;
            // Tables of ext4 take some of it.
            ensure!(
                size > data.bytes / 100 * 90,
                "{name}: the file system has {size} of {} bytes",
                data.bytes
            );
        }
        Ok(())
    })
}

fn a_gigabyte_is_mostly_free(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        for name in PIS {
            let printed = rack.ssh(name, "cat /proc/meminfo; ps -eo rss,comm --sort=-rss | head -n 8")?;
            let free = crate::rack::kilobytes(&printed, "MemAvailable:")?;
            let total = crate::rack::kilobytes(&printed, "MemTotal:")?;
            let processes: Vec<&str> = printed.lines().rev().take(8).collect();
            println!(
                "{name}: {} of {} MB available\n{}",
                free / 1000,
                total / 1000,
                processes.join("\n")
            );
            ensure!(free > 600 * 1000, "{name}: only {free} kB of {total} are available");
        }
        Ok(())
    })
}

/// The data partition of a card whose machine lost power: the journal is replayed, then nothing may be wrong. Done on a copy, since
/// e2fsck forgets where a partition begins when it opens an image file again after the replay.
pub(crate) fn data_is_clean(card: &Card) -> Result<()> {
    let data = card.partition(7)?;
    let copy = card.path().with_extension("data");
    let check = || -> Result<()> {
        run(Command::new("dd")
            .args(["bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none"])
            .arg(format!("if={}", card.path().display()))
            .arg(format!("of={}", copy.display()))
            .args([format!("skip={}", data.start), format!("count={}", data.bytes)]))?;
        // 1: it mended what a replay leaves, such as the counters of free blocks
        let status = Command::new("e2fsck").arg("-p").arg(&copy).status()?;
        ensure!(matches!(status.code(), Some(0 | 1)), "replay the journal: {status}");
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&copy))
            .map(drop)
            .context("check")
    };
    let result = check();
    let _ = std::fs::remove_file(&copy);
    result
}
