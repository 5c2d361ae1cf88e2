//! Boards without a laptop's help: a mistake in the seed, a network where nobody gives addresses. What needs no Pi hardware runs on
//! the faster machine, from the same card.

use anyhow::{Context, Result, ensure};
use minidc_tests::emulated::{Addressing, Board, Machine, Power};

use crate::{
    leds,
    world::{CLUSTER, MOMENT, READY, World},
};

pub(crate) const ALL: &[crate::Promise] = &[
    (
        "a_mistake_in_the_seed_is_told_on_the_card_and_by_the_lights",
        a_mistake_in_the_seed_is_told_on_the_card_and_by_the_lights,
    ),
    ("a_rack_without_dhcp_finds_itself", a_rack_without_dhcp_finds_itself),
];

/// A machine that is no Pi.
const OTHER: Board = Board::Virt { memory: 1024 };

fn a_mistake_in_the_seed_is_told_on_the_card_and_by_the_lights(world: &World) -> Result<()> {
    let laptop = world.laptop("laptop-seed", Addressing::Dhcp)?;
    let card = world.flash(&laptop, "typo", "node", &[])?;
    let seed = card.selector_file("minidc.toml")?.context("the card has no seed")?;
    let wrong = String::from_utf8(seed)?.replace("name = \"typo\"", "name = \"Ty po\"");
    card.put_selector_file("minidc.toml", &wrong)?;
    // A Pi, since the lights are told from outside: nobody can log in.
    let pi = Power::on(Board::Pi3);
    let mut machine = Machine::start("typo", &card, &laptop.network, &world.directory, &pi)?;
    let mut told = String::new();
    machine.until(READY, "minidc-problem.txt", || {
        let file = card
            .selector_file("minidc-problem.txt")?
            .context("it is not there yet")?;
        told = String::from_utf8(file)?;
        Ok(told.contains("Ty po"))
    })?;
    println!("{told}");
    let mut qmp = machine.control()?;
    machine.until(READY, "the lights to say that the seed is wrong", || {
        leds::watch(&mut qmp, [false, false, true], &[200, 300, 200, 1500]).map(|_| true)
    })?;
    drop(qmp);
    // The person corrects it, and takes no other way than the card.
    drop(machine);
    card.put_selector_file("minidc.toml", &wrong.replace("Ty po", "typo"))?;
    let mut machine = Machine::start("typo", &card, &laptop.network, &world.directory, &Power::on(OTHER))?;
    machine.until(READY, "the problem to be gone from the card", || {
        Ok(card.selector_file("minidc-problem.txt")?.is_none() && laptop.network.lease("typo").is_some())
    })?;
    // No key was in the seed.
    let address = laptop.network.lease("typo").context("no lease")?;
    ensure!(!laptop.answers(&address, 22), "SSH is open on a card without a key");
    Ok(())
}

fn a_rack_without_dhcp_finds_itself(world: &World) -> Result<()> {
    let laptop = world.laptop("laptop-alone", Addressing::LinkLocal)?;
    let names = ["alone-1", "alone-2"];
    let mut machines = Vec::new();
    for (name, role) in names.into_iter().zip(["server", "node"]) {
        let card = world.flash(&laptop, name, role, &[])?;
        machines.push(Machine::start(
            name,
            &card,
            &laptop.network,
            &world.directory,
            &Power::on(OTHER),
        )?);
    }
    laptop.find(&mut machines[0])?;
    for (name, machine) in names.into_iter().zip(&mut machines) {
        machine.until(READY, "node Ready", || laptop.is_ready(name))?;
        println!("{name} of {CLUSTER} Ready after {:.0?}, without DHCP", machine.uptime());
        machine.until(MOMENT, "an address of its own", || {
            Ok(laptop.address(name)?.starts_with("169.254."))
        })?;
    }
    machines[1].until(MOMENT, "both to be Ready, with routes to each other's pods", || {
        names.iter().try_for_each(|name| laptop.has_network(name))?;
        Ok(laptop.is_ready(names[0])? && laptop.is_ready(names[1])?)
    })
}
