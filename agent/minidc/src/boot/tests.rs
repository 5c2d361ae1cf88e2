//! Power cuts at every point between a seed on the card and one whose secrets are on the data partition.

use std::{cell::Cell, path::Path};

use minidc_image::{
    cards::{Card as Planned, files as seed_files},
    device::faulty::{Fault, Faulty, Memory},
    fat,
    layout::{SELECTOR, Table},
    sample,
    seed::{self, Authority, Membership, Role, Secret, Seed, Stage},
};
use minidc_link::pki::ClusterIdentity;

use super::adopt::{Card, Taken, take};

/// A laptop's identity of a cluster, and what its cards carry.
struct Laptop {
    _place: tempfile::TempDir,
    identity: ClusterIdentity,
    authority: Authority,
}

impl Laptop {
    fn new(cluster: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("pki");
        let identity = ClusterIdentity::load_or_create(&directory, cluster).unwrap();
        let text = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        let authority = Authority {
            ca_certificate: text("ca.crt"),
            ca_key: Secret::new(text("ca.key")),
            join_key: Secret::new(text("join.key").trim()),
        };
        Self {
            _place: place,
            identity,
            authority,
        }
    }

    fn seed(&self, role: Role, node: &str) -> Seed {
        let planned = Planned {
            number: 1,
            node: node.into(),
            role,
        };
        let membership = match planned.role {
            Role::Server => Membership::Server(Some(self.authority.clone())),
            Role::Node => Membership::Node {
                token: Some(Secret::new(
                    self.identity.mint_token(Some(node), 4_000_000_000).unwrap().to_string(),
                )),
                ca_pin: Some(self.identity.pin().to_string()),
            },
        };
        Seed {
            cluster: self.identity.cluster().into(),
            node: planned.node,
            membership,
            moved_authority: None,
            servers: Vec::new(),
            wifi: None,
            ssh_keys: Vec::new(),
            time: None,
        }
    }
}

fn card(seed: &Seed) -> Vec<u8> {
    sample::image(&seed_files(seed)).unwrap()
}

fn selector(card: &mut Memory) -> minidc_image::layout::Partition {
    *Table::read(card).unwrap().get(SELECTOR).unwrap()
}

fn on_card(card: &mut Memory) -> String {
    let selector = selector(card);
    String::from_utf8(fat::read(card, &selector, seed::FILE).unwrap().unwrap()).unwrap()
}

fn put(card: &mut Memory, text: &str) {
    let selector = selector(card);
    let file = fat::File {
        name: seed::FILE.into(),
        contents: text.as_bytes().to_vec(),
    };
    fat::write(card, &selector, &[file]).unwrap();
}

fn boot(card: &mut Memory, data: &Path) -> Taken {
    take(Card::new(card).map_err(|error| error.explain()), data, &mut |_| Ok(())).unwrap()
}

/// The secrets of a seed, none of which may be on a card that was adopted.
fn secrets(seed: &Seed) -> Vec<String> {
    match &seed.membership {
        Membership::Server(Some(authority)) => vec![
            // a line of the key
            authority.ca_key.expose().lines().nth(1).unwrap().to_owned(),
            authority.join_key.expose().to_owned(),
        ],
        Membership::Node { token: Some(token), .. } => vec![token.expose().to_owned()],
        _ => Vec::new(),
    }
}

fn assert_adopted(seed: &Seed, card: &mut Memory, data: &Path, what: &str) {
    let selector = selector(card);
    let [start, end] = [selector.start, selector.end()].map(|at| usize::try_from(at).unwrap());
    for secret in secrets(seed) {
        let found = card.0[start..end]
            .windows(secret.len())
            .any(|bytes| bytes == secret.as_bytes());
        assert!(!found, "{what}: a secret is left on the card");
    }
    let text = on_card(card);
    let again = Seed::parse(&text, Stage::Joined).unwrap_or_else(|problems| panic!("{what}: {problems:?}\n{text}"));
    match &seed.membership {
        Membership::Server(_) => {
            let own = ClusterIdentity::load(&data.join("server/pki")).unwrap();
            assert_eq!(again.moved_authority, Some(own.pin().to_string()), "{what}");
            let kept = std::fs::read_to_string(data.join("server/pki/join.key")).unwrap();
            assert_eq!(kept.trim(), secrets(seed)[1], "{what}");
        }
        Membership::Node { .. } => {
            let kept = std::fs::read_to_string(data.join("boot/token")).unwrap();
            assert_eq!(kept.trim(), secrets(seed)[0], "{what}");
        }
    }
    assert!(!data.join("boot/moving").exists(), "{what}: the note is left");
    assert_eq!(
        (again.node, again.cluster),
        (seed.node.clone(), seed.cluster.clone()),
        "{what}"
    );
}

#[test]
fn a_power_cut_between_any_two_steps_is_made_up_for_by_the_next_start() {
    let laptop = Laptop::new("rack1");
    for role in [Role::Server, Role::Node] {
        let seed = laptop.seed(role, "pi-1");
        let mut names = Vec::new();
        for cut in 0.. {
            let data = tempfile::tempdir().unwrap();
            let mut card = Memory(card(&seed));
            let (count, last) = (Cell::new(0), Cell::new(""));
            let mut step = |name: &'static str| {
                last.set(name);
                anyhow::ensure!(count.replace(count.get() + 1) < cut, "the power is gone");
                Ok(())
            };
            let outcome = take(
                Card::new(&mut card).map_err(|error| error.explain()),
                data.path(),
                &mut step,
            );
            let what = format!("{role}, cut before {:?}", last.get());
            let complete = outcome.is_ok();
            names.push(last.get());
            let taken = boot(&mut card, data.path());
            assert_eq!(taken.problems, [], "{what}");
            assert_eq!(taken.seed.unwrap().node, "pi-1", "{what}");
            assert_adopted(&seed, &mut card, data.path(), &what);
            let (before, files) = (card.0.clone(), listing(data.path()));
            assert_eq!(boot(&mut card, data.path()).problems, [], "{what}");
            assert!(
                before == card.0,
                "{what}: the start after that writes nothing to the card"
            );
            assert_eq!(files, listing(data.path()), "{what}: nor to the data partition");
            if complete {
                break;
            }
        }
        assert_eq!(names.len(), 6, "five steps and the end: {names:?}");
    }
}

/// Names, sizes and times of all files.
fn listing(directory: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(listing(&entry.path()));
        } else {
            found.push((entry.path().display().to_string(), meta.len(), meta.modified().unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_power_cut_while_the_card_is_written_is_made_up_for_by_the_next_start() {
    let laptop = Laptop::new("rack1");
    for role in [Role::Server, Role::Node] {
        let seed = laptop.seed(role, "pi-1");
        let fresh = card(&seed);
        for after in (0..).step_by(512) {
            let data = tempfile::tempdir().unwrap();
            let mut cut = Faulty::new(Memory(fresh.clone()), Fault::Disappear { after });
            let whole = take(
                Card::new(&mut cut).map_err(|error| error.explain()),
                data.path(),
                &mut |_| Ok(()),
            )
            .is_ok_and(|taken| taken.problems.is_empty());
            let mut card = cut.into_inner();
            let taken = boot(&mut card, data.path());
            let what = format!("{role}, cut after {after} bytes");
            assert_eq!(taken.problems, [], "{what}");
            assert_adopted(&seed, &mut card, data.path(), &what);
            if whole {
                assert!(after > 512, "{what}: more than one sector is written");
                break;
            }
        }
    }
}

#[test]
fn a_seed_that_a_person_changed_after_a_cut_is_not_taken_for_a_torn_one() {
    let laptop = Laptop::new("rack1");
    let seed = laptop.seed(Role::Server, "pi-1");
    let data = tempfile::tempdir().unwrap();
    let mut memory = Memory(card(&seed));
    let mut step = |name: &'static str| {
        anyhow::ensure!(name != "note removed", "the power is gone");
        Ok(())
    };
    let card = Card::new(&mut memory).map_err(|error| error.explain());
    assert!(take(card, data.path(), &mut step).is_err());
    assert!(data.path().join("boot/moving").exists());
    let edited = on_card(&mut memory).replace("ssh_keys = []", "ssh_keys = [ ]\nserver_name = 1");
    put(&mut memory, &edited);
    let taken = boot(&mut memory, data.path());
    assert!(
        seed::listed(&taken.problems).contains("server_name"),
        "{:?}",
        taken.problems
    );
    assert_eq!(taken.seed.unwrap().node, "pi-1");
    assert_eq!(on_card(&mut memory), edited);
}

#[test]
fn another_authority_never_replaces_the_one_that_is_there() {
    let (first, second) = (Laptop::new("rack1"), Laptop::new("rack1"));
    let data = tempfile::tempdir().unwrap();
    let mut own = Memory(card(&first.seed(Role::Server, "pi-1")));
    boot(&mut own, data.path());
    let mut other = Memory(card(&second.seed(Role::Server, "pi-1")));
    let before = other.0.clone();
    let taken = boot(&mut other, data.path());
    let said = seed::listed(&taken.problems);
    assert!(
        said.contains("another identity") && said.contains("never replaced"),
        "{said}"
    );
    assert!(before == other.0, "the secrets of a refused seed stay where they are");
    let present = ClusterIdentity::load(&data.path().join("server/pki")).unwrap();
    assert_eq!(present.pin(), first.identity.pin());
    assert_eq!(
        taken.seed.unwrap().moved_authority,
        Some(first.identity.pin().to_string())
    );
}

#[test]
fn an_emptied_data_partition_never_gets_a_new_authority_by_itself() {
    let laptop = Laptop::new("rack1");
    let data = tempfile::tempdir().unwrap();
    let mut memory = Memory(card(&laptop.seed(Role::Server, "pi-1")));
    boot(&mut memory, data.path());
    let empty = tempfile::tempdir().unwrap();
    let taken = boot(&mut memory, empty.path());
    assert!(
        seed::listed(&taken.problems).contains("flash the card anew"),
        "{:?}",
        taken.problems
    );
    assert_eq!(taken.seed, None);
    assert!(!empty.path().join("server").exists());
}

#[test]
fn what_may_change_later_is_honoured_and_what_may_not_is_refused() {
    let laptop = Laptop::new("rack1");
    let data = tempfile::tempdir().unwrap();
    let mut memory = Memory(card(&laptop.seed(Role::Server, "pi-1")));
    boot(&mut memory, data.path());
    let text = on_card(&mut memory);
    let wifi = format!(
        "{}\n[wifi]\nssid = \"attic\"\npassword = \"new network\"\ncountry = \"DE\"\n",
        text.trim_end()
    );
    put(&mut memory, &wifi);
    let taken = boot(&mut memory, data.path());
    assert_eq!(taken.problems, []);
    assert_eq!(taken.seed.unwrap().wifi.unwrap().ssid, "attic");
    for (from, to, key) in [
        ("cluster = \"rack1\"", "cluster = \"rack2\"", "cluster: "),
        ("role = \"server\"", "role = \"node\"", "role: "),
    ] {
        put(&mut memory, &wifi.replace(from, to));
        let taken = boot(&mut memory, data.path());
        let said = seed::listed(&taken.problems);
        assert!(said.contains(key) && said.contains("flash the card anew"), "{said}");
        let used = taken.seed.unwrap();
        assert_eq!((used.cluster.as_str(), used.membership.role()), ("rack1", Role::Server));
        assert_eq!(used.wifi.unwrap().ssid, "attic", "the last good one goes on");
    }
}

#[test]
fn a_damaged_first_partition_does_not_keep_a_board_from_starting() {
    let laptop = Laptop::new("rack1");
    let data = tempfile::tempdir().unwrap();
    let mut memory = Memory(card(&laptop.seed(Role::Node, "pi-2")));
    boot(&mut memory, data.path());
    let selector = selector(&mut memory);
    let start = usize::try_from(selector.start).unwrap();
    memory.0[start..start + 4096].fill(0);
    let taken = boot(&mut memory, data.path());
    assert_eq!(taken.seed.as_ref().unwrap().node, "pi-2");
    assert!(taken.report().unwrap().contains("goes on with what it was told before"));
    let taken = take(Err("the card cannot be read".into()), data.path(), &mut |_| Ok(())).unwrap();
    assert_eq!(taken.seed.unwrap().node, "pi-2");
}
