//! The lights without the agent, read from outside of the board: `minidc led test` of the image walks through all states on the
//! image's own kernel, while QEMU tells levels and functions of the pins. Kernel, initrd, root and program are the card's; only
//! systemd is left out, so that nothing else keeps the emulated board busy.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{
    emulated::{Addressing, Board, Machine, Power, qmp::Qmp},
    run,
};

use crate::world::World;

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "the_character_device_and_the_led_on_the_board_show_each_state_and_refuse_what_they_must",
        character_device_shows_each_state,
    ),
    (
        "the_registers_show_each_state_and_refuse_what_they_must",
        registers_show_each_state,
    ),
];

/// Registers of the BCM2837 (BCM2835 ARM peripherals, section 6.1): the first function register, and levels of GPIO 0 to 31.
const FUNCTIONS: u32 = 0x3f20_0000;
const LEVELS: u32 = 0x3f20_0034;
/// Green, yellow and red, and the LED on the board of a Zero 2 W, which is lit when its pin is low.
const PINS: [u32; 3] = [17, 27, 22];
const ACT: u32 = 29;
/// Function of a pin that is an output.
const OUTPUT: u32 = 1;
/// Between two looks from outside.
const LOOK: Duration = Duration::from_millis(15);
/// The light may still show what was before.
const SETTLE: u128 = 1500;
/// Times that the board walks through its states: what a busy computer spoils once is seen another time.
const WALKS: usize = 3;
/// Longest wait for the board to say something new.
const STILL: Duration = Duration::from_secs(300);

/// How each state looks, by the beginning of the line that `minidc led test` says: green, yellow and red, and the times of a round in
/// milliseconds, lit and dark in turn. As on the card to print, not as the program has it.
const STATES: [(&str, [bool; 3], &[u128]); 13] = [
    ("off ", [false; 3], &[]),
    ("starting ", [true, true, false], &[300, 300]),
    ("joining ", [true, true, false], &[1000, 1000]),
    ("refused    red      2 ", [false, false, true], &[200, 300, 200, 1500]),
    (
        "refused    red      3 ",
        [false, false, true],
        &[200, 300, 200, 300, 200, 1500],
    ),
    (
        "refused    red      4 ",
        [false, false, true],
        &[200, 300, 200, 300, 200, 300, 200, 1500],
    ),
    (
        "refused    red      5 ",
        [false, false, true],
        &[200, 300, 200, 300, 200, 300, 200, 300, 200, 1500],
    ),
    ("ready ", [true, false, false], &[1750, 250]),
    ("busy ", [false, true, false], &[1250, 250, 250, 250]),
    ("degraded ", [false, true, true], &[1000, 250, 200, 550]),
    ("lost ", [false, false, true], &[150, 1850]),
    ("locate ", [true, true, true], &[100, 100]),
    (
        "halting ",
        [true, true, true],
        &[900, 200, 500, 200, 250, 200, 100, 650],
    ),
];

/// The card's own init, up to where it would hand over to systemd.
const BEGIN: &str = r#"#!/bin/busybox sh
/bin/busybox sed 's,^exec switch_root .*,cp /lights /root/; [ ! -e /minidc ] || cp /minidc /root/usr/bin/; exec switch_root /root /bin/sh /lights,' /init >/begun
exec /bin/busybox sh /begun
"#;

/// What runs in place of systemd. Lines that begin with `==` say what comes next.
const LIGHTS: &str = r#"
mkdir -p /run/minidc /run/lock /tmp/nobody
chmod 777 /tmp/nobody
printf '[leds]\ndriver = "registers"\n' >/registers.toml
printf '[leds]\ndriver = "auto"\n' >/auto.toml
chosen=$(sed -n 's/.*lights=\([a-z]*\).*/\1/p' /proc/cmdline)
{ echo 'run = "/tmp/nobody"'; cat /$chosen.toml; } >/nobody.toml
lights() { minidc --config /$chosen.toml led "$@" 2>&1; }
echo "== suite"
lights suite 5 6
echo "== busy"
minidc --config /$chosen.toml led test --seconds 600 ready >/dev/null 2>&1 &
until grep -qs ready /run/minidc/leds.json; do sleep 0.2; done
lights suite 17 27
kill -KILL $!
rm /run/minidc/leds.json
echo "== nobody"
setpriv --reuid=65534 --regid=65534 --clear-groups minidc --config /nobody.toml led suite 5 6 2>&1
echo "== forced"
minidc --config /registers.toml led suite 5 6 2>&1
for walk in 1 2 3; do
  echo "== walk"
  lights test --seconds 14
  echo "== dark"
  sleep 4
  echo "== leaving"
  SERVICE_RESULT=signal lights fault
  echo "== fault"
  sleep 6
done
echo "== end"
sleep 1000
"#;

/// What the board said between two lines.
fn section<'a>(console: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = console.split_once(&format!("== {name}"))?;
    rest.split_once("\n== ").map(|(section, _)| section)
}

fn character_device_shows_each_state(world: &World) -> Result<()> {
    let console = walk(world, "pins-auto", Board::Zero2W, "auto", true)?;
    let chip = "(/dev/gpiochip0): ";
    says(
        &console,
        "suite",
        &["character device: passed", "LED on the board: passed"],
    )?;
    says(
        &console,
        "busy",
        &["GPIO 17 (pin 11)", chip, "minidc has it", "[leds.board]"],
    )?;
    let denied = format!("for GPIO 5, 6 {chip}this user may not use it; run as root, or as a user of the group gpio");
    says(
        &console,
        "nobody",
        &[
            &denied,
            "LED ACT (/sys/class/leds/ACT/trigger): this user may not use it; run as root",
        ],
    )?;
    says(&console, "forced", &["for GPIO 5, 6 (/dev/mem): ", "iomem=relaxed"])
}

/// Debian's kernel has no `/dev/gpiomem`, and keeps all memory from programs but in this boot.
fn registers_show_each_state(world: &World) -> Result<()> {
    let console = walk(world, "pins-registers", Board::Pi3, "registers", false)?;
    says(&console, "suite", &["registers: passed"])?;
    says(
        &console,
        "busy",
        &[
            "registers: GPIO 17 (pin 11) (/dev/mem): minidc has it; stop that program",
            "[leds.board]",
        ],
    )?;
    says(
        &console,
        "nobody",
        &["for GPIO 5, 6 (/dev/mem): ", "only root may use it"],
    )
}

fn says(console: &str, name: &str, words: &[&str]) -> Result<()> {
    let said = section(console, name).with_context(|| format!("no section {name}"))?;
    println!("{name}:{said}");
    match words.iter().find(|word| !said.contains(**word)) {
        Some(word) => bail!("{name}: no {word:?} in {said}"),
        None => Ok(()),
    }
}

/// A look at the pins, so many milliseconds after the first.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: u128,
    leds: [bool; 3],
    act: bool,
}

/// Boots the card with [`LIGHTS`] and watches until each state was seen, on the LED on the board too where the kernel knows it; gives
/// what the board said.
fn walk(world: &World, name: &str, board: Board, driver: &str, has_led: bool) -> Result<String> {
    let laptop = world.laptop(&format!("laptop-{name}"), Addressing::LinkLocal)?;
    let card = world.flash(&laptop, name, "node", &[])?;
    let mut power = Power::on(board)
        .with("rdinit=/begin quiet loglevel=1 iomem=relaxed")
        .with(&format!("lights={driver}"));
    if driver == "auto" {
        // as the image is shipped
        power.parameters[0] = power.parameters[0].replace(" iomem=relaxed", "");
    }
    power.archive = Some(archive(world, name)?);
    let mut machine = Machine::start(name, &card, &laptop.network, &world.directory, &power)?;
    machine.until(STILL, "the first walk", || {
        Ok(machine_says(world, name)?.contains("== walk"))
    })?;
    let mut qmp = machine.control()?;
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    let mut refused: BTreeMap<&str, String> = BTreeMap::new();
    let wanted = STATES.len() + 2;
    let (mut now, mut since) = (String::new(), Instant::now());
    let mut looks: Vec<Look> = Vec::new();
    let mut functions = BTreeMap::new();
    while seen.len() < wanted {
        machine.alive()?;
        let console = machine_says(world, name)?;
        // a line that is still being written is not read
        let line = console.rsplit('\n').nth(1).unwrap_or_default().trim_end().to_owned();
        if line != now {
            if let Some((stage, outcome)) = judge(&now, &looks, &functions, has_led) {
                match outcome {
                    Ok(words) => {
                        println!("{stage}: {words}");
                        seen.insert(stage, words);
                    }
                    Err(error) => drop(refused.insert(stage, format!("{error:#}"))),
                }
            }
            if line == "== end" {
                refused.retain(|stage, _| !seen.contains_key(stage));
                bail!("not seen in {WALKS} walks: {refused:#?}");
            }
            (now, since) = (line, Instant::now());
            looks.clear();
            functions.clear();
        }
        ensure!(since.elapsed() < STILL, "the board stays at {now:?}");
        let levels = word(&mut qmp, LEVELS)?;
        let level = |pin: u32| levels >> pin & 1 == 1;
        let at = since.elapsed().as_millis();
        looks.push(Look {
            at,
            leds: PINS.map(level),
            act: !level(ACT),
        });
        if at > SETTLE && functions.is_empty() {
            for pin in PINS.into_iter().chain(has_led.then_some(ACT)) {
                let register = word(&mut qmp, FUNCTIONS + pin / 10 * 4)?;
                functions.insert(pin, register >> (pin % 10 * 3) & 7);
            }
        }
        std::thread::sleep(LOOK);
    }
    machine_says(world, name)
}

fn machine_says(world: &World, name: &str) -> Result<String> {
    let console = fs::read(world.directory.join(format!("{name}.log")))?;
    Ok(String::from_utf8_lossy(&console).replace('\r', ""))
}

fn word(qmp: &mut Qmp, address: u32) -> Result<u32> {
    let printed = qmp.monitor(&format!("xp /1wx {address:#x}"))?;
    let hexadecimal = printed.split("0x").last().context("nothing printed")?.trim();
    u32::from_str_radix(hexadecimal, 16).with_context(|| printed.clone())
}

/// What the pins did while the board said this line; `None` for a line that is about no light.
fn judge(
    line: &str,
    looks: &[Look],
    functions: &BTreeMap<u32, u32>,
    has_led: bool,
) -> Option<(&'static str, Result<String>)> {
    let settled: Vec<Look> = looks.iter().copied().filter(|look| look.at > SETTLE).collect();
    let steady = |leds: [bool; 3], act: Option<bool>| {
        ensure!(settled.len() > 20, "{} looks", settled.len());
        let other = settled
            .iter()
            .find(|look| look.leds != leds || act.is_some_and(|act| look.act != act));
        match other {
            Some(other) => bail!("meant {leds:?} and {act:?}, seen {other:?}"),
            None => Ok(format!(
                "{leds:?}, LED on the board {act:?}, at each of {} looks",
                settled.len()
            )),
        }
    };
    match line {
        // the kernel does with the LED on the board what it did before
        "== dark" => return Some(("dark", steady([false; 3], None))),
        // red stays lit, and so does the LED on the board: this kernel leaves outputs as they are when their program is gone
        "== fault" => {
            let outcome = steady([false, false, true], has_led.then_some(true));
            return Some(("fault", outcome));
        }
        _ => {}
    }
    let (stage, lit, times) = *STATES.iter().find(|(stage, ..)| line.starts_with(stage))?;
    let outcome = (|| {
        let others: Vec<_> = functions.iter().filter(|(_, function)| **function != OUTPUT).collect();
        ensure!(!functions.is_empty() && others.is_empty(), "no outputs: {others:?}");
        if times.is_empty() {
            return steady([false; 3], has_led.then_some(false));
        }
        // a look in the middle of a change sees some of the pins changed
        let odd = settled
            .windows(2)
            .find(|two| two[0].leds == two[1].leds && two[0].leds != lit && two[0].leds != [false; 3]);
        ensure!(odd.is_none(), "meant {lit:?}, seen {odd:?}");
        let rounds = rounds(&settled, times, |look| look.leds == lit)?;
        if has_led {
            let act = self::rounds(&settled, times, |look| look.act).context("the LED on the board")?;
            return Ok(format!("{lit:?}, outputs, {rounds:?} ms, LED on the board {act:?} ms"));
        }
        Ok(format!("{lit:?}, outputs, {rounds:?} ms"))
    })();
    Some((stage.trim_end(), outcome))
}

/// Finds two seconds, and at least a whole round, in which the light was lit and dark as long as meant.
fn rounds(looks: &[Look], times: &[u128], lit: impl Fn(&Look) -> bool) -> Result<Vec<u128>> {
    let edges: Vec<(u128, bool)> = looks
        .windows(2)
        .filter(|two| lit(&two[0]) != lit(&two[1]))
        .map(|two| (two[1].at, lit(&two[1])))
        .collect();
    let lasted: Vec<(u128, bool)> = edges.windows(2).map(|two| (two[1].0 - two[0].0, two[0].1)).collect();
    let count = usize::try_from(2000 / times.iter().sum::<u128>())?.max(1);
    let meant: Vec<u128> = times.repeat(count);
    let found = lasted.windows(meant.len()).find(|seen| {
        seen.iter()
            .zip(meant.iter().enumerate())
            // half of the shortest difference between two states
            .all(|(seen, (index, meant))| seen.1 == (index % 2 == 0) && seen.0.abs_diff(*meant) <= 45 + meant / 10)
    });
    match found {
        Some(seen) => Ok(seen.iter().map(|(time, _)| *time).collect()),
        None => bail!("meant {meant:?}, seen {lasted:?}"),
    }
}

/// What is in the initrd besides the card's: [`BEGIN`], [`LIGHTS`], and the program that `PROGRAM` names, to be tried in place of the image's.
fn archive(world: &World, name: &str) -> Result<PathBuf> {
    let (directory, archive) = (
        world.directory.join(format!("{name}-files")),
        world.directory.join(format!("{name}.cpio")),
    );
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("begin"), BEGIN)?;
    fs::write(directory.join("lights"), LIGHTS)?;
    if let Some(program) = std::env::var_os("PROGRAM") {
        fs::copy(&program, directory.join("minidc"))?;
    }
    run(Command::new("sh")
        .args(["-ec", "cd \"$0\"; chmod 755 *; ls | cpio -o -H newc --quiet >\"$1\""])
        .arg(&directory)
        .arg(&archive))?;
    Ok(archive)
}
