//! The seed: judged, its secrets moved from the card's FAT partition to the data partition.
//!
//! Order, with a power cut possible between any two and inside the fourth:
//!
//! 1. the CA, or the token, to the data partition
//! 2. the seed without its secrets beside it: the last good one
//! 3. the seed as it was, as a note that the next step is under way
//! 4. the seed without its secrets over the one on the card, in place
//! 5. the note is removed
//!
//! Before the third, the next start finds the same seed and does the same again. After it, a seed that consists of sectors of the old and the
//! new one is known to be half written, not edited by a person, and is written again.

use std::path::Path;

use minidc_image::{
    boot::{Cluster, Known, Member, Offer, TokenFacts, judge},
    device::Target,
    fat,
    layout::{Partition, SELECTOR, Table},
    seed::{self, Aftermath, Membership, Problem, Seed, Stage},
};
use minidc_link::{
    node::IdentityFile,
    pki::{ClusterIdentity, Parts},
    token::Token,
};

use super::{KEPT, SEED, TOKEN, files};

/// The note that the seed on the card is being rewritten: its contents before.
const MOVING: &str = "moving";
/// What a power cut leaves whole.
const SECTOR: usize = 512;

/// Called before each durable change with what it is; an error ends the work there, as a power cut would.
pub(crate) type Step<'s> = &'s mut dyn FnMut(&'static str) -> anyhow::Result<()>;

/// What came of the seed.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What the board is to be, without secrets; `None` when there never was a good seed.
    pub(crate) seed: Option<Seed>,
    /// What is wrong with the seed on the card.
    pub(crate) problems: Vec<Problem>,
}

impl Taken {
    /// What a person should read; `None` when there is nothing wrong.
    pub(crate) fn report(&self) -> Option<String> {
        let aftermath = if self.seed.is_some() {
            Aftermath::GoesOn
        } else {
            Aftermath::Waits
        };
        (!self.problems.is_empty()).then(|| seed::report(&self.problems, aftermath))
    }
}

/// The first partition of a card.
pub(crate) struct Card<'t> {
    target: &'t mut dyn Target,
    selector: Partition,
}

impl<'t> Card<'t> {
    /// Finds it.
    pub(crate) fn new(target: &'t mut dyn Target) -> Result<Self, minidc_image::Error> {
        let table = Table::read(target)?;
        let selector = table.get(SELECTOR).copied().ok_or_else(|| {
            minidc_image::Error::Layout(minidc_image::layout::LayoutError::Unexpected(vec![format!(
                "partition {SELECTOR} is missing"
            )]))
        })?;
        Ok(Self { target, selector })
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, minidc_image::Error> {
        fat::read(self.target, &self.selector, name)
    }

    /// Makes the text file beside the seed say `text`, or nothing. It is not written when it says that already.
    pub(crate) fn report(&mut self, text: Option<&str>) -> Result<(), minidc_image::Error> {
        let present = self.read(seed::PROBLEM_FILE)?;
        match text {
            Some(text) if present.as_deref() != Some(text.as_bytes()) => {
                let file = fat::File {
                    name: seed::PROBLEM_FILE.to_owned(),
                    contents: text.as_bytes().to_vec(),
                };
                fat::write(self.target, &self.selector, &[file])
            }
            None if present.is_some() => fat::remove(self.target, &self.selector, seed::PROBLEM_FILE),
            _ => Ok(()),
        }
    }
}

fn problem(message: impl Into<String>) -> Problem {
    Problem {
        line: None,
        key: None,
        message: message.into(),
    }
}

/// Takes the seed from the card (or why there is no card), as far as the data partition below `data` allows.
///
/// # Errors
/// If the data partition cannot be read or written, or a step ends it. What is wrong with card or seed is no error.
pub(crate) fn take(card: Result<Card<'_>, String>, data: &Path, step: Step<'_>) -> anyhow::Result<Taken> {
    let kept = data.join(KEPT);
    files::make_private(&kept)?;
    let last_good = read_last_good(&kept)?;
    let mut card = match card {
        Ok(card) => card,
        Err(why) => {
            return Ok(Taken {
                seed: last_good,
                problems: vec![problem(why)],
            });
        }
    };
    let text = match card.read(seed::FILE) {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Ok(Taken {
                seed: last_good,
                problems: vec![problem("the file is not there; put it back, or flash the card anew")],
            });
        }
        Err(error) => {
            return Ok(Taken {
                seed: last_good,
                problems: vec![problem(format!(
                    "it cannot be read ({}): the card's first partition is damaged; flash the card anew when you can",
                    error.explain()
                ))],
            });
        }
    };
    let text = complete(&mut card, &kept, text, last_good.as_ref(), step)?;

    let known = known(data, &kept)?;
    let stage = match &known {
        Known {
            server: None,
            node: None,
            token: None,
        } => Stage::FirstBoot,
        _ => Stage::Joined,
    };
    let judged = Seed::parse_bytes(&text, stage).and_then(|seed| {
        let pin = accept(&seed, &String::from_utf8_lossy(&text), &known)?;
        Ok((seed, pin))
    });
    let (seed, pin) = match judged {
        Ok(judged) => judged,
        Err(problems) => {
            return Ok(Taken {
                seed: last_good,
                problems,
            });
        }
    };
    let mut plain = seed.without_secrets();
    if pin.is_some() {
        plain.moved_authority = pin;
    }
    match &seed.membership {
        Membership::Server(Some(authority)) => {
            step("authority")?;
            ClusterIdentity::adopt(
                &data.join("server/pki"),
                &Parts {
                    cluster: &seed.cluster,
                    ca_certificate: &authority.ca_certificate,
                    ca_key: authority.ca_key.expose(),
                    join_key: authority.join_key.expose(),
                },
            )?;
        }
        Membership::Node { token: Some(token), .. } => {
            let path = kept.join(TOKEN);
            let line = format!("{}\n", token.expose().trim());
            if files::read(&path)?.as_deref() != Some(line.as_bytes()) {
                step("token")?;
                files::replace(&path, line.as_bytes())?;
            }
        }
        Membership::Server(None) | Membership::Node { token: None, .. } => {}
    }
    if last_good.as_ref() != Some(&plain) {
        step("seed")?;
        files::replace(&kept.join(SEED), plain.render().as_bytes())?;
    }
    let mut problems = Vec::new();
    if plain.membership != seed.membership {
        step("note")?;
        files::replace(&kept.join(MOVING), &text)?;
        step("card")?;
        match fat::overwrite(card.target, &card.selector, seed::FILE, plain.render().as_bytes()) {
            Ok(_) => {
                step("note removed")?;
                files::remove_durably(&kept.join(MOVING))?;
            }
            Err(error) => problems.push(problem(format!(
                "its secrets were read, and could not be removed from the card ({}): the board works, but take a new card",
                error.explain()
            ))),
        }
    }
    Ok(Taken {
        seed: Some(plain),
        problems,
    })
}

/// The last good seed, which needs no secrets.
fn read_last_good(kept: &Path) -> anyhow::Result<Option<Seed>> {
    let Some(text) = files::read(&kept.join(SEED))? else {
        return Ok(None);
    };
    match Seed::parse_bytes(&text, Stage::Joined) {
        Ok(seed) => Ok(Some(seed)),
        Err(problems) => {
            eprintln!("the last good seed is damaged: {}", seed::listed(&problems));
            Ok(None)
        }
    }
}

/// Finishes the rewriting of the seed on the card that a power cut ended, and returns what is there now. A seed that a person has changed
/// since is left alone.
fn complete(
    card: &mut Card<'_>,
    kept: &Path,
    text: Vec<u8>,
    last_good: Option<&Seed>,
    step: Step<'_>,
) -> anyhow::Result<Vec<u8>> {
    let note = kept.join(MOVING);
    let Some(old) = files::read(&note)? else {
        return Ok(text);
    };
    let mut text = text;
    if let Some(plain) = last_good {
        let plain = plain.render().into_bytes();
        if is_torn(&text, &old, &plain) {
            step("card again")?;
            match fat::overwrite(card.target, &card.selector, seed::FILE, &plain) {
                Ok(now) => text = now,
                // The note stays, and with it the knowledge.
                Err(error) => {
                    eprintln!("the seed on the card cannot be completed: {}", error.explain());
                    return Ok(plain);
                }
            }
        }
    }
    step("note removed")?;
    files::remove_durably(&note)?;
    Ok(text)
}

/// Whether `text` consists of sectors of `old` and of `new` (filled up to the length of the old with line ends).
fn is_torn(text: &[u8], old: &[u8], new: &[u8]) -> bool {
    let mut new = new.to_vec();
    new.resize(new.len().max(old.len()), b'\n');
    if text.len() != old.len() && text.len() != new.len() {
        return false;
    }
    text.chunks(SECTOR).enumerate().all(|(index, sector)| {
        let start = index * SECTOR;
        let of = |whole: &[u8]| {
            whole
                .get(start..)
                .is_some_and(|rest| rest.get(..sector.len()) == Some(sector))
        };
        // clusters that were added may hold anything
        of(old) || of(&new) || start >= old.len()
    })
}

/// What the data partition holds.
fn known(data: &Path, kept: &Path) -> anyhow::Result<Known> {
    let pki = data.join("server/pki");
    let server = pki.try_exists()?.then(|| {
        ClusterIdentity::load(&pki)
            .map(|identity| Cluster {
                name: identity.cluster().to_owned(),
                pin: identity.pin().to_string(),
            })
            .map_err(|error| error.to_string())
    });
    let node = match IdentityFile::within(&data.join("agent")).read() {
        Ok(None) => None,
        Ok(Some(identity)) => Some(Ok(Member {
            joined: identity.certificate.is_some(),
            node: identity.node,
            cluster: Cluster {
                name: identity.cluster,
                pin: identity.pin,
            },
        })),
        Err(error) => Some(Err(error.to_string())),
    };
    // one that is damaged is as good as none
    let token = files::read(&kept.join(TOKEN))?
        .and_then(|text| String::from_utf8(text).ok())
        .and_then(|text| facts(&text).ok());
    Ok(Known { server, node, token })
}

fn facts(token: &str) -> Result<TokenFacts, String> {
    let token: Token = token
        .trim()
        .parse()
        .map_err(|error: minidc_link::token::TokenError| error.to_string())?;
    Ok(TokenFacts {
        cluster: Cluster {
            name: token.cluster().to_owned(),
            pin: token.pin().to_string(),
        },
        node: token.node().map(ToOwned::to_owned),
    })
}

/// Judges a seed, of which `text` is the file, by what a board knows, and gives the pin of the cluster's identity in it.
///
/// # Errors
/// Every reason not to use it.
pub(crate) fn accept(seed: &Seed, text: &str, known: &Known) -> Result<Option<String>, Vec<Problem>> {
    let (identity, offer) = examine(seed);
    match judge(&offer, known) {
        Ok(()) => Ok(identity.map(|identity| identity.pin().to_string())),
        Err(problems) => Err(problems.into_iter().map(|problem| problem.located(text)).collect()),
    }
}

/// Looks into the texts of a seed.
fn examine(seed: &Seed) -> (Option<ClusterIdentity>, Offer<'_>) {
    let mut offer = Offer {
        seed,
        authority: None,
        token: None,
    };
    let mut identity = None;
    match &seed.membership {
        Membership::Server(Some(authority)) => {
            let assembled = ClusterIdentity::assemble(&Parts {
                cluster: &seed.cluster,
                ca_certificate: &authority.ca_certificate,
                ca_key: authority.ca_key.expose(),
                join_key: authority.join_key.expose(),
            });
            offer.authority = Some(match assembled {
                Ok(assembled) => {
                    let pin = assembled.pin().to_string();
                    identity = Some(assembled);
                    Ok(pin)
                }
                Err(wrong) => Err(wrong),
            });
        }
        Membership::Node { token: Some(token), .. } => offer.token = Some(facts(token.expose())),
        Membership::Server(None) | Membership::Node { token: None, .. } => {}
    }
    (identity, offer)
}
