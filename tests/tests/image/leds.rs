//! The lights of a board, read from outside of it: the levels and functions of its pins as the processor has them, whatever the
//! program in it believes. The image drives them through the character device.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::emulated::qmp::Qmp;

use crate::world::{MOMENT, PIS, READY, World};

pub(crate) const ALL: &[crate::Promise] = &[(
    "states_that_the_agent_shows_are_seen_on_the_pins_from_outside",
    states_are_seen_from_outside,
)];

/// Registers of the BCM2837 (BCM2835 ARM peripherals, section 6.1): functions of GPIO 10 to 19 and 20 to 29, and levels of 0 to 31.
const FUNCTIONS: [&str; 2] = ["0x3f200004", "0x3f200008"];
const LEVELS: &str = "0x3f200034";
/// Green, yellow and red.
const PINS: [u32; 3] = [17, 27, 22];
/// Between two looks from outside.
const LOOK: Duration = Duration::from_millis(20);
/// How much later than it should an emulated board may be.
const LATE: u128 = 140;

fn word(qmp: &mut Qmp, address: &str) -> Result<u32> {
    let printed = qmp.monitor(&format!("xp /1wx {address}"))?;
    let hexadecimal = printed.split("0x").last().context("nothing printed")?.trim();
    u32::from_str_radix(hexadecimal, 16).with_context(|| printed.clone())
}

/// Function of a pin; 1 is output.
fn function(qmp: &mut Qmp, pin: u32) -> Result<u32> {
    let register = FUNCTIONS[usize::try_from(pin / 10 - 1)?];
    Ok(word(qmp, register)? >> (pin % 10 * 3) & 7)
}

fn levels(qmp: &mut Qmp) -> Result<[bool; 3]> {
    let word = word(qmp, LEVELS)?;
    Ok(PINS.map(|pin| word >> pin & 1 == 1))
}

fn states_are_seen_from_outside(world: &World) -> Result<()> {
    world.with_rack(|rack| {
        let address = rack.laptop.address(PIS[1])?;
        let machine = &mut rack.machines[1];
        let laptop = &rack.laptop;
        machine.until(READY, "the agent to show something", || {
            let printed = laptop.ssh(&address, "cat /run/minidc/leds.json 2>/dev/null || true")?;
            Ok(printed.contains("state"))
        })?;
        let mut qmp = machine.control()?;
        for pin in PINS {
            ensure!(function(&mut qmp, pin)? == 1, "GPIO {pin} is no output");
        }
        for (reason, lit, times) in [
            ("ready", [true, false, false], &[1750u128, 250][..]),
            ("cpu", [false, true, false], &[1250, 250, 250, 250]),
            ("pods-failing", [false, true, true], &[1000, 250, 200, 550]),
            ("away", [false, false, true], &[150, 1850]),
            ("starting", [true, true, false], &[300, 300]),
            ("searching", [true, true, false], &[1000, 1000]),
            ("seed", [false, false, true], &[200, 300, 200, 1500]),
            ("token", [false, false, true], &[200, 300, 200, 300, 200, 1500]),
            ("halting", [true, true, true], &[900, 200, 500, 200, 250, 200, 100, 650]),
        ] {
            laptop.ssh(
                &address,
                &format!("minidc led test --seconds 120 {reason} >/dev/null 2>&1 &"),
            )?;
            let begin = Instant::now();
            loop {
                match watch(&mut qmp, lit, times) {
                    Ok(seen) => {
                        println!("{reason}: {seen:?} ms, meant {times:?}");
                        break;
                    }
                    Err(error) if begin.elapsed() > MOMENT => bail!("{reason}: {error:#}"),
                    Err(_) => {}
                }
            }
            laptop.ssh(&address, "pkill -f 'minidc led test'; rm -f /run/minidc/led-wish")?;
        }
        Ok(())
    })
}

/// Looks at the pins for two rounds; gives the times of one, lit and dark in turn, when they are those that are meant.
pub(crate) fn watch(qmp: &mut Qmp, lit: [bool; 3], times: &[u128]) -> Result<Vec<u128>> {
    let round: u128 = times.iter().sum();
    let (begin, mut edges) = (Instant::now(), Vec::new());
    let mut before = None;
    while begin.elapsed().as_millis() < round * 2 + 1000 {
        let now = levels(qmp)?;
        ensure!(now == lit || now == [false; 3], "seen {now:?}, meant {lit:?}");
        if before.is_some_and(|before| before != now) {
            edges.push((begin.elapsed().as_millis(), now == lit));
        }
        before = Some(now);
        std::thread::sleep(LOOK);
    }
    let lasted: Vec<(u128, bool)> = edges.windows(2).map(|two| (two[1].0 - two[0].0, two[0].1)).collect();
    for shift in 0..lasted.len().saturating_sub(times.len() - 1) {
        let seen = &lasted[shift..shift + times.len()];
        let same = seen
            .iter()
            .zip(times.iter().enumerate())
            .all(|((time, is_lit), (index, meant))| *is_lit == (index % 2 == 0) && time.abs_diff(*meant) <= LATE);
        if same {
            return Ok(seen.iter().map(|(time, _)| *time).collect());
        }
    }
    bail!("seen {lasted:?}, meant {times:?}")
}
