//! `minidc flash`, `minidc seed` and what a laptop keeps: the real program on image files that stand for cards. What can go wrong
//! with a card itself, at every byte, is tried in the crate `minidc_image`; here is what a person sees of it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bench;
mod kubeconfig;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use bench::{Bench, CARD, is_untouched, looks_good, outcome, seed_of};
use minidc_image::seed::{Membership, Role};
use minidc_link::token::Token;
use sha2::{Digest, Sha256};

const IMAGE: &str = "minidc.img";

fn token_of(membership: &Membership) -> Token {
    let Membership::Node { token: Some(token), .. } = membership else {
        panic!("{membership:?}");
    };
    token.expose().parse().unwrap()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_server_and_a_node_are_flashed_with_one_identity() {
    let bench = Bench::new();
    let (one, two) = (bench.card("one.img"), bench.card("two.img"));
    let said = bench.flash(IMAGE, "one.img", "server", "pi-1", &[]);
    let said = said.succeeded();
    for word in [
        "Erase everything on one.img (a file, 0.01 GB) and make it pi-1, the server of rack1?",
        "writing: 10 % of 0.01 GB",
        "reading back: 100 % of 0.01 GB",
        "pi-1 is ready: 0.01 GB written in",
        "seed checked",
        "minidc kubeconfig --cluster rack1",
    ] {
        assert!(said.contains(word), "{word}\n{said}");
    }
    let server = seed_of(&bench, &one);
    let Membership::Server(Some(authority)) = server.membership else {
        panic!("{server:?}");
    };
    let kept = |name: &str| fs::read_to_string(bench.cluster("rack1").join(name)).unwrap();
    assert_eq!(authority.ca_certificate, kept("ca.crt"));
    assert_eq!(authority.ca_key.expose(), kept("ca.key"));
    assert_eq!(authority.join_key.expose(), kept("join.key").trim());
    let certificate = kept("ca.crt");

    let said = bench.flash(IMAGE, "two.img", "node", "pi-2", &[]);
    assert!(
        said.succeeded()
            .contains("It may join rack1 once, as pi-2 only, until 20")
    );
    let node = seed_of(&bench, &two);
    assert_eq!((node.node.as_str(), node.cluster.as_str()), ("pi-2", "rack1"));
    let token = token_of(&node.membership);
    assert_eq!((token.cluster(), token.node()), ("rack1", Some("pi-2")));
    let year = 365 * 24 * 60 * 60;
    let made = u64::try_from(node.time.unwrap().as_second()).unwrap();
    assert!((4 * year..6 * year).contains(&(token.expires() - made)));
    assert_eq!(kept("ca.crt"), certificate, "an identity is made once");
    assert!(kept("kubeconfig").contains("tls-server-name: server.rack1.minidc"));
    for entry in fs::read_dir(bench.cluster("rack1")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_card_made_again_gets_a_fresh_token() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    let flash = || {
        let outcome = bench.flash(IMAGE, "card.img", "node", "pi-2", &[]);
        (
            outcome.succeeded().to_owned(),
            token_of(&seed_of(&bench, &card).membership),
        )
    };
    let (_, first) = flash();
    let (said, second) = flash();
    assert_ne!(first.id(), second.id());
    assert_eq!(first.pin(), second.pin());
    assert!(
        said.contains("The card is now pi-2, a node of rack1, made on 20"),
        "{said}"
    );
    assert!(said.contains("A card for pi-2 was made on 20"), "{said}");
    assert!(said.contains("the old one is refused"), "{said}");
}

#[test]
fn nothing_is_written_until_somebody_agrees() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    for answer in ["n", "", "what?", "no"] {
        let mut session = bench.asked(IMAGE, "card.img", "server", "pi-1", &[]);
        session
            .hears("Erase everything on card.img (a file, 0.01 GB)")
            .types(answer);
        let (code, said) = session.ends();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("minidc: nothing was written"), "{said}");
    }
    // nobody is there
    let mut session = bench.asked(IMAGE, "card.img", "server", "pi-1", &[]);
    assert_eq!(session.ends().0, Some(1));
    let mut session = bench.asked(IMAGE, "card.img", "server", "pi-1", &[]);
    let (code, said) = session.hears("[y/N]").interrupts().ends();
    assert_eq!(code, Some(130), "{said}");
    assert!(is_untouched(&card));
    assert!(!bench.cluster("rack1").exists(), "no identity is made for nothing");
    let mut session = bench.asked(IMAGE, "card.img", "server", "pi-1", &[]);
    let (code, said) = session.hears("[y/N]").types("Yes").ends();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(seed_of(&bench, &card).node, "pi-1");
}

#[test]
fn a_set_of_cards_is_made_one_after_the_other_and_goes_on_after_a_stop() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    let take_out = |name: &str| fs::rename(&card, bench.path(name)).unwrap();
    let mut session = bench.asked(IMAGE, "card.img", "server", "pi-1", &["--count", "4"]);
    session
        .hears("Card 1 of 4: pi-1, the server. Put it into card.img")
        .types("");
    session.hears("make it pi-1, the server of rack1? [y/N]").types("y");
    session.hears("pi-1 is ready");
    // the same card again, then none, then one that is too small, then a good one that is refused at first
    session.hears("Card 2 of 4: pi-2, a node.").types("");
    session.hears("This is the card of pi-1, made just now: take it out.");
    take_out("one.img");
    session.hears("Card 2 of 4").types("");
    session.hears("there is no card.img; a file in place of a card is made with: truncate -s 8G card.img");
    fs::write(&card, vec![0; 4 << 20]).unwrap();
    session.hears("Card 2 of 4").types("");
    session.hears("it has 0.00 GB, the image needs 0.01 GB");
    bench.card("card.img");
    session.hears("Card 2 of 4").types("").hears("[y/N]").types("n");
    session.hears("Nothing was written to it.");
    session.hears("Card 2 of 4").types("").hears("[y/N]").types("y");
    session.hears("pi-2 is ready");
    take_out("two.img");
    session.hears("Card 3 of 4").types("q");
    let (code, said) = session.ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("2 of 4 cards were made. To go on: the same command with --start 3"),
        "{said}"
    );

    bench.card("card.img");
    let four = bench.card("four.img");
    let mut session = bench.asked(
        IMAGE,
        "card.img",
        "server",
        "pi-1",
        &["--count", "4", "--start", "3", "--yes"],
    );
    session
        .hears("Card 3 of 4: pi-3, a node.")
        .types("")
        .hears("[y/N]")
        .types("y");
    session
        .hears("Card 4 of 4: pi-4, a node.")
        .types(four.to_str().unwrap());
    session.hears("[y/N]").types("y").hears("pi-4 is ready");
    let (code, said) = session.ends();
    assert_eq!(code, Some(0), "{said}");
    take_out("three.img");

    let seeds: Vec<_> = ["one.img", "two.img", "three.img", "four.img"]
        .map(|name| seed_of(&bench, &bench.path(name)))
        .into_iter()
        .collect();
    let names: Vec<&str> = seeds.iter().map(|seed| seed.node.as_str()).collect();
    assert_eq!(names, ["pi-1", "pi-2", "pi-3", "pi-4"]);
    let roles: Vec<Role> = seeds.iter().map(|seed| seed.membership.role()).collect();
    assert_eq!(roles, [Role::Server, Role::Node, Role::Node, Role::Node]);
    let pins: Vec<_> = seeds[1..].iter().map(|seed| token_of(&seed.membership).pin()).collect();
    assert!(pins.iter().all(|pin| *pin == pins[0]));
    let list = fs::read_to_string(bench.cluster("rack1").join("cards")).unwrap();
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(
        bench
            .flash(IMAGE, "card.img", "server", "pi-1", &["--count", "2", "--start", "3"])
            .failed()
            .contains("--start 3")
    );
}

#[test]
fn ctrl_c_in_the_middle_leaves_no_card_that_looks_good() {
    for moment in ["writing:", "reading back:"] {
        let bench = Bench::new();
        let image = bench.large_image(384);
        let card = bench.card("card.img");
        fs::File::options()
            .write(true)
            .open(&card)
            .unwrap()
            .set_len(400 << 20)
            .unwrap();
        let mut session = bench.asked(image.to_str().unwrap(), "card.img", "server", "pi-1", &[]);
        session.hears("[y/N]").types("y").hears(moment).interrupts();
        let (code, said) = session.ends();
        assert_eq!(code, Some(130), "{said}");
        assert!(
            said.contains("the card in card.img is half written and left without a partition table: flash it again: stopped on request"),
            "{said}"
        );
        assert!(!looks_good(&card));
        assert!(!bench.cluster("rack1").join("cards").exists(), "it is on no list");
    }
}

#[test]
fn a_truncated_image_is_never_a_card() {
    let bench = Bench::new();
    let packed = bench.packed();
    for cut in [1, 1000, packed.len() / 2] {
        let card = bench.card("card.img");
        fs::write(bench.path("minidc.img.zst"), &packed[..packed.len() - cut]).unwrap();
        let outcome = bench.flash("minidc.img.zst", "card.img", "server", "pi-1", &[]);
        let complaint = outcome.failed();
        assert!(complaint.contains("the image is cut short after"), "{complaint}");
        assert!(complaint.contains("download or build it again"), "{complaint}");
        assert!(!looks_good(&card));
    }
    fs::write(bench.path("minidc.img.zst"), &packed).unwrap();
    let card = bench.card("card.img");
    bench
        .flash("minidc.img.zst", "card.img", "server", "pi-1", &[])
        .succeeded();
    assert_eq!(seed_of(&bench, &card).node, "pi-1");
}

#[test]
fn a_flipped_bit_in_the_image_is_never_a_card() {
    let bench = Bench::new();
    let packed = bench.packed();
    for tenth in 1..10 {
        let mut flipped = packed.clone();
        flipped[packed.len() * tenth / 10] ^= 0x10;
        fs::write(bench.path("minidc.img.zst"), &flipped).unwrap();
        let card = bench.card("card.img");
        let outcome = bench.flash("minidc.img.zst", "card.img", "server", "pi-1", &[]);
        let complaint = outcome.failed();
        assert!(
            [
                "is damaged",
                "is cut short",
                "is not a minidc image",
                "the partition table"
            ]
            .iter()
            .any(|word| complaint.contains(word)),
            "{complaint}"
        );
        assert!(!looks_good(&card), "{tenth} tenths");
    }
}

#[test]
fn an_image_that_is_not_what_its_checksum_says_is_not_written() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    let right = sum(&fs::read(bench.path(IMAGE)).unwrap());
    let mut flipped = fs::read(bench.path(IMAGE)).unwrap();
    flipped[5 << 20] ^= 1;
    fs::write(bench.path(IMAGE), &flipped).unwrap();
    fs::write(bench.path("SHA256SUMS"), format!("{right}  {IMAGE}\n")).unwrap();
    let outcome = bench.flash(IMAGE, "card.img", "server", "pi-1", &[]);
    let complaint = outcome.failed();
    assert!(
        complaint.contains("the image is not the one that SHA256SUMS describes"),
        "{complaint}"
    );
    assert!(
        complaint.contains(&format!("not {right}. Download it again")),
        "{complaint}"
    );
    assert!(is_untouched(&card));
    fs::write(bench.path("SHA256SUMS"), format!("{}  {IMAGE}\n", sum(&flipped))).unwrap();
    let outcome = bench.flash(IMAGE, "card.img", "server", "pi-1", &[]);
    assert!(outcome.succeeded().contains("image as its checksum says"));
}

#[test]
fn a_card_that_does_not_keep_what_is_written_is_found() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::File::options().write(true).open(&card).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all_at(b"worn", 6 << 20).unwrap();
            }
        });
        let outcome = bench.flash(IMAGE, "card.img", "server", "pi-1", &[]);
        stop.store(true, Ordering::Relaxed);
        let complaint = outcome.failed();
        assert!(
            complaint
                .contains("the card does not keep what is written to it: it differs between bytes 4194304 and 8388608"),
            "{complaint}"
        );
        assert!(complaint.contains("worn out or a fake"), "{complaint}");
    });
    assert!(!looks_good(&card));
}

#[test]
fn a_full_card_is_told() {
    let bench = Bench::new();
    fs::create_dir(bench.path("small")).unwrap();
    // a file of 12 MiB on a file system of 6
    let script = format!(
        "mount -t tmpfs -o size=6m none small && truncate -s {CARD} small/card.img && \"$0\" \"$@\"; code=$?; \
         head -c 512 small/card.img | od -An -tx1 | tail -1; exit $code"
    );
    let mut command = bench.command(&[]);
    let program = command.get_program().to_owned();
    command = {
        let mut wrapped = std::process::Command::new("unshare");
        wrapped
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(program)
            .args([
                "flash",
                IMAGE,
                "--device",
                "small/card.img",
                "--cluster",
                "rack1",
                "--role",
                "server",
            ])
            .args(["--name", "pi-1", "--yes"])
            .current_dir(bench.path(""))
            .env("XDG_CONFIG_HOME", bench.path("config"))
            .stdin(Stdio::null());
        wrapped
    };
    let outcome = outcome(command);
    let complaint = outcome.failed();
    assert!(complaint.contains("the card is full after"), "{complaint}");
    assert!(complaint.contains("half written"), "{complaint}");
    assert!(!outcome.said.trim_end().ends_with("55 aa"), "{}", outcome.said);
}

#[test]
fn devices_that_cannot_be_meant_are_refused_with_advice() {
    let bench = Bench::new();
    fs::write(bench.path("empty.img"), "").unwrap();
    fs::write(bench.path("small.img"), vec![0; 8 << 20]).unwrap();
    for (device, word) in [
        (
            "absent.img",
            "there is no absent.img; a file in place of a card is made with: truncate -s 8G absent.img",
        ),
        ("/dev/absent", "there is no /dev/absent: is the card in the reader?"),
        ("empty.img", "truncate -s 8G FILE"),
        ("small.img", "it has 0.00 GB, the image needs 0.01 GB"),
        ("minidc.img", "it is the image itself"),
        (".", "it is a directory"),
        ("/dev/null", "it is a character device"),
    ] {
        let outcome = bench.flash(IMAGE, device, "server", "pi-1", &[]);
        assert!(outcome.failed().contains(word), "{device}: {}", outcome.complained);
        // of several cards the first may not be there yet; what can never be a card is refused at once
        if ["minidc.img", ".", "/dev/null"].contains(&device) {
            let outcome = bench.flash(IMAGE, device, "server", "pi-1", &["--count", "2"]);
            assert!(outcome.failed().contains(word), "{device}: {}", outcome.complained);
        }
    }
    let outcome = bench.minidc(&[
        "flash",
        IMAGE,
        "--cluster",
        "rack1",
        "--role",
        "server",
        "--name",
        "pi-1",
    ]);
    assert!(outcome.failed().contains("which device?"), "{}", outcome.complained);
    assert!(!bench.cluster("rack1").exists());
}

#[test]
fn mistakes_on_the_command_line_are_told_before_anything_happens() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    fs::write(bench.path("id"), "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
    fs::write(bench.path("cut.pub"), "ssh-ed25519 AAAA\n").unwrap();
    fs::write(bench.path("short"), "1234567\n").unwrap();
    let wifi = ["--wifi", "home", "--wifi-country"];
    for (name, further, word) in [
        (
            "Pi_1",
            &[][..],
            "\"Pi_1\" may have only small letters, digits and, inside, hyphens; write \"pi-1\"",
        ),
        ("pi-1", &["--cluster", "Rack 1"], "cluster"),
        ("pi-1", &["--count", "0"], "the number of cards must be at least 1"),
        ("pi-1", &["--ssh-key", "id"], "id is a private key"),
        ("pi-1", &["--ssh-key", "none.pub"], "read none.pub"),
        (
            "pi-1",
            &["--ssh-key", "cut.pub"],
            "ssh_keys: the SSH key is damaged or cut short",
        ),
        (
            "pi-1",
            &["--server", "https://10.0.0.1"],
            "server: \"https://10.0.0.1\"",
        ),
        (
            "pi-1",
            &[&wifi[..], &["UK", "--wifi-password-file", "short"]].concat(),
            "\"GB\"",
        ),
        (
            "pi-1",
            &[&wifi[..], &["DE", "--wifi-password-file", "short"]].concat(),
            "8 to 63 characters, this has 7",
        ),
        (
            "pi-1",
            &[&wifi[..], &["DE"]].concat(),
            "there is no Wi-Fi password: give --wifi-password-file FILE",
        ),
    ] {
        let words = [
            "flash", IMAGE, "--device", "card.img", "--role", "server", "--name", name, "--yes",
        ];
        let mut all = [&words[..], further].concat();
        if !further.contains(&"--cluster") {
            all.extend(["--cluster", "rack1"]);
        }
        let outcome = bench.minidc(&all);
        assert!(outcome.failed().contains(word), "{word}: {}", outcome.complained);
    }
    let outcome = bench.flash(IMAGE, "card.img", "worker", "pi-1", &[]);
    assert!(outcome.complained.contains("write \"node\""), "{}", outcome.complained);
    let outcome = bench.flash(IMAGE, "card.img", "server", "pi-1", &["--wifi-password", "secret123"]);
    assert!(
        outcome.complained.contains("unexpected argument '--wifi-password'"),
        "{}",
        outcome.complained
    );
    assert!(is_untouched(&card));
    assert!(!bench.cluster("rack1").exists());
}

#[test]
fn wifi_and_ssh_keys_reach_the_card_and_the_password_is_asked_for() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH me@laptop";
    fs::write(bench.path("me.pub"), format!("{key}\n")).unwrap();
    let further = [
        "--wifi",
        "Café",
        "--wifi-country",
        "DE",
        "--ssh-key",
        "me.pub",
        "--server",
        "10.0.0.1",
    ];
    let mut session = bench.asked(IMAGE, "card.img", "node", "pi-2", &further);
    session.hears("Password of the Wi-Fi \"Café\"").types(" correct horse ");
    session
        .hears("Make a new cluster?")
        .types("y")
        .hears("Erase")
        .types("y")
        .hears("pi-2 is ready");
    let (_, said) = session.ends();
    assert!(!said.contains("horse"), "{said}");
    let seed = seed_of(&bench, &card);
    let wifi = seed.wifi.unwrap();
    assert_eq!((wifi.ssid.as_str(), wifi.country.as_str()), ("Café", "DE"));
    assert_eq!(wifi.password.unwrap().expose(), " correct horse ");
    assert_eq!(
        (seed.ssh_keys, seed.servers),
        (vec![key.to_owned()], vec!["10.0.0.1".to_owned()])
    );
    fs::write(bench.path("password"), "another horse\n").unwrap();
    let further = [
        "--wifi",
        "Café",
        "--wifi-country",
        "DE",
        "--wifi-password-file",
        "password",
    ];
    bench.flash(IMAGE, "card.img", "node", "pi-2", &further).succeeded();
    assert_eq!(
        seed_of(&bench, &card).wifi.unwrap().password.unwrap().expose(),
        "another horse"
    );
    // an empty answer is an open network
    let mut session = bench.asked(
        IMAGE,
        "card.img",
        "node",
        "pi-2",
        &["--wifi", "Café", "--wifi-country", "DE"],
    );
    session
        .hears("Password")
        .types("")
        .hears("open network")
        .hears("Erase")
        .types("y")
        .hears("ready")
        .ends();
    assert_eq!(seed_of(&bench, &card).wifi.unwrap().password, None);
}

#[test]
fn a_second_server_and_a_cluster_that_nobody_knows_are_asked_about() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    let mut session = bench.asked(IMAGE, "card.img", "node", "pi-2", &[]);
    session
        .hears("Cards of a cluster \"rack1\" were never made on this computer")
        .hears("Make a new cluster?");
    let (code, said) = session.types("n").ends();
    assert_eq!((code, is_untouched(&card)), (Some(1), true), "{said}");
    bench.flash(IMAGE, "card.img", "server", "pi-1", &[]).succeeded();
    let certificate = fs::read(bench.cluster("rack1").join("ca.crt")).unwrap();
    let mut session = bench.asked(IMAGE, "card.img", "server", "pi-9", &[]);
    session
        .hears("The server's card of rack1 was made before: pi-1 on 20")
        .hears("Make a server's card again?");
    let (code, said) = session.types("n").ends();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(seed_of(&bench, &card).node, "pi-1");
    let outcome = bench.flash(IMAGE, "card.img", "server", "pi-9", &[]);
    assert!(
        outcome
            .succeeded()
            .contains("Two servers of one cluster must never run at once")
    );
    assert_eq!(seed_of(&bench, &card).node, "pi-9");
    assert_eq!(fs::read(bench.cluster("rack1").join("ca.crt")).unwrap(), certificate);
    // with the identity here, tokens can be made here
    let token = bench.minidc(&["token", "create", "--cluster", "rack1", "--node", "pi-3"]);
    assert_eq!(token.succeeded().parse::<Token>().unwrap().node(), Some("pi-3"));
}

#[test]
fn a_damaged_identity_is_never_replaced() {
    let bench = Bench::new();
    let card = bench.card("card.img");
    bench.flash(IMAGE, "card.img", "server", "pi-1", &[]).succeeded();
    fs::remove_file(bench.cluster("rack1").join("join.key")).unwrap();
    let card_two = bench.card("two.img");
    let outcome = bench.flash(IMAGE, "two.img", "node", "pi-2", &[]);
    assert!(
        outcome.failed().contains("join.key is missing"),
        "{}",
        outcome.complained
    );
    assert!(is_untouched(&card_two) && looks_good(&card));
}

#[test]
fn on_a_terminal_progress_is_one_line_and_the_password_is_not_shown() {
    let bench = Bench::new();
    bench.card("card.img");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let line = |file: &std::os::fd::OwnedFd| Stdio::from(file.try_clone().unwrap());
    let mut command = bench.command(&[
        "flash",
        IMAGE,
        "--device",
        "card.img",
        "--cluster",
        "rack1",
        "--role",
        "server",
        "--name",
        "pi-1",
        "--wifi",
        "home",
        "--wifi-country",
        "DE",
    ]);
    command
        .stdin(line(&terminal.slave))
        .stdout(line(&terminal.slave))
        .stderr(line(&terminal.slave));
    let mut child = command.spawn().unwrap();
    drop((command, terminal.slave));
    let mut master = fs::File::from(terminal.master);
    let mut heard = String::new();
    let mut answers = [("open network): ", "correct horse\n"), ("[y/N] ", "y\n")]
        .into_iter()
        .peekable();
    let mut buffer = [0; 4096];
    // the end of a terminal is an error (EIO)
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
        if let Some((question, answer)) = answers.peek()
            && heard.ends_with(question)
        {
            std::io::Write::write_all(&mut master, answer.as_bytes()).unwrap();
            answers.next();
        }
    }
    assert!(child.wait().unwrap().success(), "{heard}");
    assert!(!heard.contains("horse"), "{heard}");
    let line = heard.lines().find(|line| line.contains("  writing")).unwrap();
    assert!(
        line.contains("\r  writing            [") && line.contains("[########################] 100 % of 0.01 GB"),
        "{line}"
    );
    assert!(line.contains("MB/s"), "{line}");
}

#[test]
fn a_seed_is_checked_in_words_with_lines() {
    let bench = Bench::new();
    let check = |text: &str, further: &[&str]| {
        fs::write(bench.path("minidc.toml"), text).unwrap();
        bench.minidc(&[&["seed", "check", "minidc.toml"], further].concat())
    };
    let good = "cluster = \"rack1\"\nname = \"pi-1\"\nrole = \"server\"\n";
    assert_eq!(
        check(good, &[]).succeeded(),
        "minidc.toml is in order: pi-1, server of rack1\n"
    );
    let outcome = check("cluster = \"rack1\"\nname = \"Pi 1\"\nrole = \"worker\"\n", &[]);
    outcome.failed();
    assert!(
        outcome
            .said
            .starts_with("minidc.toml: line 2: name: \"Pi 1\" may have only"),
        "{}",
        outcome.said
    );
    assert!(
        outcome.said.contains("\nminidc.toml: line 3: role: \"worker\""),
        "{}",
        outcome.said
    );
    let outcome = bench.minidc(&["seed", "check", "absent.toml"]);
    assert!(outcome.failed().contains("read absent.toml"));

    let template = bench.minidc(&["seed", "template"]);
    let template = template.succeeded();
    let outcome = check(template, &[]);
    outcome.failed();
    assert_eq!(
        outcome.said.matches("this is still empty").count(),
        3,
        "{}",
        outcome.said
    );

    let node = good.replace("server", "node");
    assert_eq!(check(&node, &["--started"]).succeeded().lines().count(), 1);
    bench.card("card.img");
    bench.flash(IMAGE, "card.img", "node", "pi-2", &[]).succeeded();
    let token = bench.minidc(&["token", "create", "--cluster", "rack1", "--node", "pi-2"]);
    let token = token.succeeded().trim();
    let outcome = check(&format!("{node}token = \"{token}\"\n"), &[]);
    outcome.failed();
    assert_eq!(
        outcome.said,
        "minidc.toml: line 4: token: it is for a board with name = \"pi-2\", not \"pi-1\"\n"
    );
    check(&format!("{}token = \"{token}\"\n", node.replace("pi-1", "pi-2")), &[]).succeeded();
}
