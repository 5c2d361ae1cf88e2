//! Names on a network: machines with a D-Bus and an Avahi of their own on one switch, all in namespaces. Needs root, and the
//! Debian packages avahi-daemon, dbus, iproute2 and util-linux.
//!
//! This program is started three times over: as the test, again within namespaces of the test's own (`lan TEST`), and in a
//! machine as the part of minidc that announces names (`announce`) or as one that claims them all (`answer-all`).

#[path = "names/lan.rs"]
mod lan;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use lan::{Lan, eventually};
use libtest_mimic::{Arguments, Trial};

type Test = fn(&Lan) -> Result<()>;

const TESTS: [(&str, Test); 8] = [
    (
        "name_is_found_by_a_laptop_until_it_is_not_wanted",
        name_is_found_by_a_laptop_until_it_is_not_wanted,
    ),
    (
        "names_come_back_after_avahi_and_dbus_were_away",
        names_come_back_after_avahi_and_dbus_were_away,
    ),
    (
        "first_owner_keeps_a_name_until_he_leaves",
        first_owner_keeps_a_name_until_he_leaves,
    ),
    ("name_moves_when_its_node_dies", name_moves_when_its_node_dies),
    (
        "machine_that_answers_to_every_name_gets_only_names",
        machine_that_answers_to_every_name_gets_only_names,
    ),
    ("signals_of_others_are_not_believed", signals_of_others_are_not_believed),
    (
        "avahi_that_hangs_and_a_network_that_loses_packets_are_borne",
        avahi_that_hangs_and_a_network_that_loses_packets_are_borne,
    ),
    (
        "names_end_with_the_process_that_wanted_them",
        names_end_with_the_process_that_wanted_them,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.get(1).map(String::as_str) {
        Some("announce") => lan::announce(),
        Some("answer-all") => lan::answer_all(),
        Some("lan") => inside(&arguments[2]),
        _ => {
            let trials = TESTS
                .into_iter()
                .map(|(name, _)| Trial::test(name, move || outside(name).map_err(|error| format!("{error:?}").into())))
                .collect();
            return libtest_mimic::run(&Arguments::from_args(), trials).exit_code();
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn outside(name: &str) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(std::env::current_exe()?).args(["lan", name]);
    let output = command.stdin(Stdio::null()).output().context("start unshare")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn inside(name: &str) -> Result<()> {
    let (_, test) = TESTS
        .iter()
        .find(|(known, _)| *known == name)
        .context("there is no such test")?;
    test(&Lan::new()?)
}

fn name_is_found_by_a_laptop_until_it_is_not_wanted(lan: &Lan) -> Result<()> {
    let (node, laptop) = (lan.machine("pi-1", 1)?, lan.machine("laptop", 50)?);
    let _daemons = (node.daemons()?, laptop.daemons()?);
    let mut announcer = node.announcer()?;
    let idle = announcer.sockets()?;

    announcer.want("web=10.9.8.1 shop-team=10.9.8.2 no.label=10.9.8.1")?;
    announcer.wait_for("no.label=unavailable shop-team=announced web=announced")?;
    ensure!(announcer.sockets()? > idle);
    laptop.resolves_to("web", Some("10.9.8.1"))?;
    laptop.resolves_to("shop-team", Some("10.9.8.2"))?;
    ensure!(
        laptop.reverse("10.9.8.1")?.contains("pi-1.local"),
        "the address leads back to the node, not to what it offers"
    );

    announcer.want("web=10.9.8.7 shop-team=10.9.8.2")?;
    laptop.resolves_to("web", Some("10.9.8.7"))?;
    announcer.wait_for("shop-team=announced web=announced")?;
    let history = announcer.history();
    let mut later = history.iter().skip_while(|line| !line.ends_with("web=announced"));
    ensure!(
        later.all(|line| line.contains("shop-team=announced")),
        "what did not change was announced anew: {history:#?}"
    );

    // announced for two minutes: only a goodbye makes the laptop forget it now
    announcer.want("shop-team=10.9.8.2")?;
    laptop.resolves_to("web", None)?;
    laptop.resolves_to("shop-team", Some("10.9.8.2"))?;
    announcer.want("")?;
    laptop.resolves_to("shop-team", None)?;
    announcer.wait_for("")?;
    eventually("no connection is kept while nothing is wanted", || {
        Ok(announcer.sockets()? == idle)
    })
}

fn names_come_back_after_avahi_and_dbus_were_away(lan: &Lan) -> Result<()> {
    let (node, laptop) = (lan.machine("pi-1", 1)?, lan.machine("laptop", 50)?);
    let _daemons = laptop.daemons()?;
    let mut announcer = node.announcer()?;
    announcer.want("web=10.9.8.1")?;
    announcer.wait_for("web=unavailable")?;
    announcer.want("web=10.9.8.1 shop=10.9.8.1")?;
    announcer.wait_for("shop=unavailable web=unavailable")?;

    let dbus = node.dbus()?;
    let avahi = node.avahi()?;
    announcer.wait_for("shop=announced web=announced")?;
    laptop.resolves_to("web", Some("10.9.8.1"))?;

    // killed, it says no goodbye; the connection to D-Bus stays
    drop(avahi);
    announcer.wait_for("shop=unavailable web=unavailable")?;
    announcer.want("web=10.9.8.7")?;
    announcer.wait_for("web=unavailable")?;
    let avahi = node.avahi()?;
    announcer.wait_for("web=announced")?;
    laptop.resolves_to("web", Some("10.9.8.7"))?;

    drop(dbus);
    announcer.wait_for("web=unavailable")?;
    drop(avahi);
    let _both = node.daemons()?;
    announcer.wait_for("web=announced")?;
    laptop.resolves_to("web", Some("10.9.8.7"))?;
    ensure!(announcer.is_running()?);
    let complaints = announcer.log()?.matches("cannot be announced").count();
    ensure!(
        complaints == 3,
        "three times away, {complaints} lines:\n{}",
        announcer.log()?
    );
    Ok(())
}

fn first_owner_keeps_a_name_until_he_leaves(lan: &Lan) -> Result<()> {
    let (node, laptop) = (lan.machine("pi-1", 1)?, lan.machine("web", 50)?);
    let _daemons = node.daemons()?;
    let laptop_dbus = laptop.dbus()?;
    let laptop_avahi = laptop.avahi()?;
    node.resolves_to("web", Some("10.9.8.50"))?;
    let mut announcer = node.announcer()?;
    announcer.want("web=10.9.8.1 shop=10.9.8.1")?;
    announcer.wait_for("shop=announced web=collision:10.9.8.50")?;
    laptop.resolves_to("shop", Some("10.9.8.1"))?;
    node.resolves_to("web", Some("10.9.8.50"))?;

    laptop_avahi.end()?;
    drop(laptop_dbus);
    announcer.wait_for("shop=announced web=announced")?;
    node.resolves_to("web", Some("10.9.8.1"))
}

fn name_moves_when_its_node_dies(lan: &Lan) -> Result<()> {
    let (first, second) = (lan.machine("pi-1", 1)?, lan.machine("pi-2", 2)?);
    let laptop = lan.machine("laptop", 50)?;
    let _daemons = (first.daemons()?, second.daemons()?, laptop.daemons()?);
    let (mut old, mut new) = (first.announcer()?, second.announcer()?);
    old.want("web=10.9.8.1")?;
    laptop.resolves_to("web", Some("10.9.8.1"))?;

    // a cable that is pulled lets no goodbye through
    first.cable(false)?;
    new.want("web=10.9.8.2")?;
    new.wait_for("web=announced")?;
    laptop.resolves_to("web", Some("10.9.8.2"))?;

    // the old one comes back and does not know yet: one of the two gives in, and the new one has it as soon as the old one knows
    first.cable(true)?;
    first.resolves_to("pi-2", Some("10.9.8.2"))?;
    old.want("")?;
    new.wait_for("web=announced")?;
    first.resolves_to("web", Some("10.9.8.2"))?;
    laptop.resolves_to("web", Some("10.9.8.2"))
}

fn names_end_with_the_process_that_wanted_them(lan: &Lan) -> Result<()> {
    let (node, laptop) = (lan.machine("pi-1", 1)?, lan.machine("laptop", 50)?);
    let _daemons = (node.daemons()?, laptop.daemons()?);
    let mut announcer = node.announcer()?;
    announcer.want("web=10.9.8.1")?;
    laptop.resolves_to("web", Some("10.9.8.1"))?;
    drop(announcer);
    laptop.resolves_to("web", None)?;
    // and in order: nobody is left who could want anything
    let mut announcer = node.announcer()?;
    announcer.want("web=10.9.8.1")?;
    announcer.wait_for("web=announced")?;
    announcer.finish()?;
    laptop.resolves_to("web", None)
}

fn machine_that_answers_to_every_name_gets_only_names(lan: &Lan) -> Result<()> {
    let (node, rogue) = (lan.machine("pi-1", 1)?, lan.machine("rogue", 66)?);
    let _daemons = node.daemons()?;
    let greedy = rogue.answers_to_all()?;
    let mut announcer = node.announcer()?;
    announcer.want("shop=10.9.8.1 web=10.9.8.1")?;
    announcer.wait_for("shop=collision:10.9.8.66 web=collision:10.9.8.66")?;
    let requests = announcer.log()?.matches("somebody else has the name").count();
    ensure!(
        requests == 2,
        "a line for each name, not for each attempt:\n{}",
        announcer.log()?
    );
    // it goes, and the names are free
    drop(greedy);
    announcer.wait_for("shop=announced web=announced")?;
    ensure!(announcer.is_running()?);
    Ok(())
}

fn signals_of_others_are_not_believed(lan: &Lan) -> Result<()> {
    let node = lan.machine("pi-1", 1)?;
    let _daemons = node.daemons()?;
    let mut announcer = node.announcer()?;
    announcer.want("web=10.9.8.1")?;
    announcer.wait_for("web=announced")?;
    node.spoof_collisions()?;
    // comes after it on the same connection
    announcer.want("shop=10.9.8.1 web=10.9.8.1")?;
    announcer.wait_for("shop=announced web=announced")?;
    let history = announcer.history();
    ensure!(!history.iter().any(|line| line.contains("collision")), "{history:#?}");
    Ok(())
}

fn avahi_that_hangs_and_a_network_that_loses_packets_are_borne(lan: &Lan) -> Result<()> {
    let (node, laptop) = (lan.machine("pi-1", 1)?, lan.machine("laptop", 50)?);
    let _daemons = laptop.daemons()?;
    let _dbus = node.dbus()?;
    let avahi = node.avahi()?;
    lan.lose(30)?;
    let mut announcer = node.announcer()?;
    announcer.want("web=10.9.8.1")?;
    announcer.wait_for("web=announced")?;
    laptop.resolves_to("web", Some("10.9.8.1"))?;
    avahi.signal("STOP")?;
    announcer.want("shop=10.9.8.1 web=10.9.8.1")?;
    announcer.wait_for("shop=unavailable web=unavailable")?;
    avahi.signal("CONT")?;
    announcer.wait_for("shop=announced web=announced")?;
    laptop.resolves_to("shop", Some("10.9.8.1"))
}
