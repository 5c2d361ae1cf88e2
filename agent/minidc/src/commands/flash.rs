//! `minidc flash`: image and seed to cards, one after the other, with a person at the keyboard.
//!
//! What is written, and that it is right, is the business of the crate `minidc_image`; here are the questions, the cluster's identity,
//! and what is told.

mod bar;
mod terminal;

use std::{
    error::Error as StdError,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use minidc_image::{
    Error,
    cards::{self, Card, Identity, Rack},
    device::DeviceFile,
    flash::{self, Report},
    host::{Device, Host, Refusal, size},
    seed::{Authority, Membership, Role, Secret, Seed, Wifi},
    source::Image,
};
use minidc_link::clock::{self, Floor};
use nix::{fcntl::AtFlags, unistd::AccessFlags};

use self::{bar::Bar, terminal::Terminal};
use crate::{
    cli::FlashArgs,
    clusters::{Clusters, Made},
};

/// Life of a card's token: five years. A card may lie in a drawer for long; its token opens the cluster once, for one name, and whoever
/// has the card could have the board. A longer one would outlive the memory of who has it.
const TOKEN_LIFE: Duration = Duration::from_secs(1826 * 24 * 60 * 60);
/// Exit code of a program that Ctrl-C ended, as shells count it.
const INTERRUPTED: u8 = 130;

/// Runs `minidc flash`.
pub(crate) fn run(arguments: &FlashArgs) -> anyhow::Result<ExitCode> {
    let outcome = Terminal::open().and_then(|terminal| Work::begin(terminal, arguments)?.all());
    match outcome {
        Err(error) if is_stop(&error) => {
            eprintln!("minidc: {error:#}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

fn is_stop(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Error>() {
        Some(Error::Stopped) => true,
        Some(Error::HalfWritten { cause, .. }) => matches!(**cause, Error::Stopped),
        _ => false,
    }
}

/// Whether the same image may be tried with another card, or after something was done about this one.
fn is_about_the_card(error: &anyhow::Error) -> bool {
    let cause = match error.downcast_ref::<Error>() {
        Some(Error::HalfWritten { cause, .. }) => cause,
        Some(error) => error,
        None => return false,
    };
    match cause {
        Error::NoDevice { .. }
        | Error::Open { .. }
        | Error::Full { .. }
        | Error::Gone { .. }
        | Error::WriteProtected { .. }
        | Error::Device { .. }
        | Error::Mismatch { .. }
        | Error::FileMismatch { .. } => true,
        Error::Refused { reasons, .. } => reasons.iter().all(|reason| {
            matches!(
                reason,
                Refusal::Mounted { .. }
                    | Refusal::ReadOnly
                    | Refusal::NoCard
                    | Refusal::EmptyFile
                    | Refusal::TooSmall { .. }
            )
        }),
        _ => false,
    }
}

/// Gives each card its right to join.
struct Issuer<'a> {
    clusters: &'a Clusters,
    cluster: &'a str,
    /// Unix seconds.
    expires: u64,
}

impl Identity for Issuer<'_> {
    fn membership(&mut self, card: &Card) -> Result<Membership, Box<dyn StdError + Send + Sync>> {
        let cluster = self.clusters.get_or_make(self.cluster)?;
        let identity = cluster.identity();
        Ok(match card.role {
            Role::Server => Membership::Server(Some(Authority {
                ca_certificate: identity.ca_pem().to_owned(),
                ca_key: Secret::new(identity.ca_key_pem()),
                join_key: Secret::new(identity.join_key_hex()),
            })),
            Role::Node => Membership::Node {
                token: Some(Secret::new(
                    identity.mint_token(Some(&card.node), self.expires)?.to_string(),
                )),
                ca_pin: Some(identity.pin().to_string()),
            },
        })
    }
}

/// All that is known while cards are made.
struct Work {
    terminal: Terminal,
    image: Image,
    host: Host,
    device: PathBuf,
    clusters: Clusters,
    rack: Rack,
    cards: Vec<Card>,
    /// Cards to leave out at the beginning.
    skip: usize,
    yes: bool,
    made: Vec<Card>,
}

impl Work {
    /// Judges everything that can be judged before the first card is written, and asks what must be asked once.
    fn begin(mut terminal: Terminal, arguments: &FlashArgs) -> anyhow::Result<Self> {
        let image = Image::open(&arguments.image)?;
        let host = Host::default();
        let cards = cards::plan(&arguments.name, arguments.role, arguments.count)?;
        ensure!(
            (1..=arguments.count).contains(&arguments.start),
            "--start {} is not one of the {} cards",
            arguments.start,
            arguments.count
        );
        let now = Floor::new(None, None).judge(clock::system()).seconds;
        let mut rack = Rack {
            cluster: arguments.cluster.clone(),
            servers: arguments.server.clone(),
            wifi: None,
            ssh_keys: Vec::new(),
            time: Timestamp::from_second(i64::try_from(now)?)?,
        };
        for file in &arguments.ssh_key {
            rack.ssh_keys.extend(public_keys(file)?);
        }
        rack.check()?;
        let Some(device) = arguments.device.clone() else {
            bail!(no_device(&host));
        };
        match flash::prepare(&image, &host, &device) {
            Err(error) if arguments.count == 1 => bail!(error),
            Err(error) => {
                let error = error.into();
                // a card that is not there yet comes later
                ensure!(is_about_the_card(&error), error);
            }
            Ok(device) => check_writable(&device)?,
        }
        if let Some(ssid) = &arguments.wifi {
            rack.wifi = Some(Wifi {
                ssid: ssid.clone(),
                password: wifi_password(&mut terminal, ssid, arguments.wifi_password_file.as_deref())?,
                country: arguments.wifi_country.clone().unwrap_or_default(),
            });
            rack.check()?;
        }
        let mut work = Self {
            terminal,
            image,
            host,
            device,
            clusters: Clusters::of_person()?,
            rack,
            cards,
            skip: usize::try_from(arguments.start - 1)?,
            yes: arguments.yes,
            made: Vec::new(),
        };
        work.check_cluster()?;
        Ok(work)
    }

    /// Warns of what a typing error would do, and of a second server.
    fn check_cluster(&mut self) -> anyhow::Result<()> {
        let name = self.rack.cluster.clone();
        let known = self.clusters.names()?;
        let serves = self.remaining().any(|card| card.role == Role::Server);
        if !known.contains(&name) {
            if serves {
                return Ok(());
            }
            let others = if known.is_empty() {
                "no cluster's cards were made here yet".to_owned()
            } else {
                format!("those made here: {}", known.join(", "))
            };
            println!("Cards of a cluster {name:?} were never made on this computer ({others}).");
            println!("A node of a new cluster finds its server only if the server's card is made here, too.");
            return self.agree("Make a new cluster?");
        }
        let server = self
            .clusters
            .get(&name)?
            .cards()?
            .into_iter()
            .rfind(|card| card.role == Role::Server);
        match server {
            Some(server) if serves => {
                println!(
                    "The server's card of {name} was made before: {} on {}.",
                    server.node,
                    day(server.time)
                );
                println!(
                    "Two servers of one cluster must never run at once, and a new one begins with an empty store; its identity stays the same."
                );
                self.agree("Make a server's card again?")
            }
            None if !serves => {
                println!("Note: the server's card of {name} was not made on this computer yet.");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn agree(&mut self, question: &str) -> anyhow::Result<()> {
        ensure!(self.yes || self.terminal.agrees(question)?, "nothing was written");
        Ok(())
    }

    fn remaining(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().skip(self.skip)
    }

    fn all(mut self) -> anyhow::Result<()> {
        let cards: Vec<Card> = self.remaining().cloned().collect();
        for card in &cards {
            if let Err(error) = self.card(card) {
                if self.cards.len() > 1 {
                    eprintln!(
                        "{} of {} cards were made{}. To go on: the same command with --start {}",
                        self.made.len(),
                        self.cards.len(),
                        self.skipped(),
                        card.number
                    );
                }
                return Err(error);
            }
        }
        self.farewell()
    }

    fn skipped(&self) -> String {
        match self.skip {
            0 => String::new(),
            count => format!(" after the first {count}"),
        }
    }

    /// Makes one card; of several each until it is good or somebody gives up.
    fn card(&mut self, card: &Card) -> anyhow::Result<()> {
        if self.cards.len() == 1 {
            ensure!(self.attempt(card)?, "nothing was written");
            return Ok(());
        }
        loop {
            self.insert(card)?;
            match self.attempt(card) {
                Ok(true) => return Ok(()),
                Ok(false) => println!("Nothing was written to it."),
                Err(error) if is_about_the_card(&error) => eprintln!("minidc: {error:#}"),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the card is in the reader.
    fn insert(&mut self, card: &Card) -> anyhow::Result<()> {
        let question = format!(
            "\nCard {} of {}: {}, {}. Put it into {} and press Enter (q stops, another path is taken as the device): ",
            card.number,
            self.cards.len(),
            card.node,
            article(card.role),
            self.device.display()
        );
        let Some(answer) = self.terminal.ask(&question)? else {
            bail!("stopped before {}: nobody answers", card.node);
        };
        match answer.as_str() {
            "q" | "Q" | "quit" => bail!("stopped before {}", card.node),
            path if path.starts_with('/') => self.device = path.into(),
            _ => {}
        }
        Ok(())
    }

    /// Writes one card; `false` when it is not to be written.
    fn attempt(&mut self, card: &Card) -> anyhow::Result<bool> {
        let device = flash::prepare(&self.image, &self.host, &self.device)?;
        check_writable(&device)?;
        if let Some(present) = present(&device) {
            let ours = present.cluster == self.rack.cluster;
            if ours && self.made.iter().any(|made| made.node == present.node) {
                println!("This is the card of {}, made just now: take it out.", present.node);
                return Ok(false);
            }
            println!(
                "The card is now {}, {} of {}{}.",
                present.node,
                article(present.membership.role()),
                present.cluster,
                present
                    .time
                    .map(|time| format!(", made on {}", day(time)))
                    .unwrap_or_default()
            );
        }
        if let Some(before) = self.made_before(card)? {
            println!(
                "A card for {} was made on {}; once the new one has joined, the old one is refused.",
                card.node,
                day(before.time)
            );
        }
        println!(
            "Image: {} ({} on the card)",
            self.image.path().display(),
            size(self.image.bytes())
        );
        let question = format!(
            "Erase everything on {device} and make it {}, {} of {}?",
            card.node,
            article(card.role),
            self.rack.cluster
        );
        if self.yes {
            println!("{question} yes");
        } else if !self.terminal.agrees(&question)? {
            return Ok(false);
        }
        let expires = u64::try_from(self.rack.time.as_second())?.saturating_add(TOKEN_LIFE.as_secs());
        let mut issuer = Issuer {
            clusters: &self.clusters,
            cluster: &self.rack.cluster,
            expires,
        };
        let seed = self.rack.seed(card, &mut issuer)?;
        let mut bar = Bar::new();
        let result = flash::flash(
            &self.image,
            &self.host,
            &self.device,
            &cards::files(&seed),
            &mut |progress| {
                bar.show(progress);
                if self.terminal.interrupted() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        bar.close();
        let report = result?;
        self.finished(card, &device, &report);
        if card.role == Role::Node {
            let until = Timestamp::from_second(i64::try_from(expires)?)?;
            println!(
                "It may join {} once, as {} only, until {}.",
                self.rack.cluster,
                card.node,
                day(until)
            );
        }
        Ok(true)
    }

    /// The last card for this name on the list.
    fn made_before(&self, card: &Card) -> anyhow::Result<Option<Made>> {
        if !self.clusters.names()?.contains(&self.rack.cluster) {
            return Ok(None);
        }
        let cards = self.clusters.get(&self.rack.cluster)?.cards()?;
        Ok(cards
            .into_iter()
            .rfind(|made| made.node == card.node && made.role == Role::Node && card.role == Role::Node))
    }

    fn finished(&mut self, card: &Card, device: &Device, report: &Report) {
        let made = Made {
            time: self.rack.time,
            role: card.role,
            node: card.node.clone(),
        };
        let listed = self
            .clusters
            .get(&self.rack.cluster)
            .and_then(|cluster| cluster.add_card(&made));
        self.made.push(card.clone());
        let pace = |time: Duration| {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
            format!("{} ({})", bar::time(time), bar::speed(report.bytes / millis * 1000))
        };
        let ejected = if flash::release(device) {
            "ejected, take it out"
        } else {
            "you can take it out"
        };
        println!(
            "{} is ready: {} written in {}, read back and compared in {}, seed checked{}; {ejected}.",
            card.node,
            size(report.bytes),
            pace(report.writing),
            pace(report.comparing),
            if report.checksum_seen {
                ", image as its checksum says"
            } else {
                ""
            }
        );
        if let Err(error) = listed {
            eprintln!("minidc: the card is good, but could not be put on the list of cards: {error:#}");
        }
    }

    fn farewell(&self) -> anyhow::Result<()> {
        let cluster = self.clusters.get(&self.rack.cluster)?;
        let name = &self.rack.cluster;
        println!("\nOnce the boards have power, on this computer:\n");
        println!("  minidc kubeconfig --cluster {name}");
        println!("  export KUBECONFIG={}", cluster.kubeconfig_file().display());
        println!("  kubectl get nodes\n");
        println!(
            "The identity of {name} is in {}: whoever has it rules the cluster. Keep a copy in a safe place.",
            cluster.directory().display()
        );
        Ok(())
    }
}

/// What a card says of itself; whoever cannot read it asks nothing of it.
fn present(device: &Device) -> Option<Seed> {
    cards::present(&mut DeviceFile::open_to_read(&device.path).ok()?)
}

/// A refusal that comes before all questions is better than one after them.
fn check_writable(device: &Device) -> anyhow::Result<()> {
    nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        &device.path,
        AccessFlags::R_OK | AccessFlags::W_OK,
        AtFlags::AT_EACCESS,
    )
    .map_err(|error| {
        Error::Open {
            device: device.path.display().to_string(),
            source: error.into(),
        }
        .into()
    })
}

fn no_device(host: &Host) -> String {
    let found: Vec<String> = host
        .candidates()
        .into_iter()
        .map(|device| format!("\n  --device {device}"))
        .collect();
    if found.is_empty() {
        "which device? There is no card in a reader here. Put one in and name it with --device, or name an image file"
            .to_owned()
    } else {
        format!("which device? These cards are here:{}", found.concat())
    }
}

fn public_keys(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    ensure!(
        !text.contains("PRIVATE KEY"),
        "{} is a private key, which must not be on a card: use the file that ends in .pub",
        file.display()
    );
    let keys: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    ensure!(!keys.is_empty(), "{} has no key in it", file.display());
    Ok(keys)
}

/// From the file, or from the person; none for an open network.
fn wifi_password(terminal: &mut Terminal, ssid: &str, file: Option<&Path>) -> anyhow::Result<Option<Secret>> {
    let password = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None => terminal
            .ask_secret(&format!("Password of the Wi-Fi {ssid:?} (empty for an open network): "))?
            .context("there is no Wi-Fi password: give --wifi-password-file FILE")?,
    };
    if password.is_empty() {
        println!("The Wi-Fi {ssid:?} is taken as an open network, without a password.");
        return Ok(None);
    }
    Ok(Some(Secret::new(password)))
}

fn article(role: Role) -> &'static str {
    match role {
        Role::Server => "the server",
        Role::Node => "a node",
    }
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
