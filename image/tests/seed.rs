//! The seed: what is accepted, what is said of mistakes, and that nothing is lost between writing and reading.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use minidc_image::seed::{self, Authority, Membership, Problem, Secret, Seed, Stage, Wifi};
use proptest::prelude::*;

fn token() -> String {
    format!("minidc1.payload.{}", "m".repeat(43))
}

fn key(comment: &str) -> String {
    let mut blob = vec![0, 0, 0, 11];
    blob.extend(b"ssh-ed25519");
    blob.extend([0, 0, 0, 32]);
    blob.extend([7; 32]);
    format!("ssh-ed25519 {} {comment}", STANDARD.encode(blob))
}

fn pem(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn node() -> Seed {
    Seed {
        cluster: "rack1".into(),
        node: "pi-2".into(),
        membership: Membership::Node {
            token: Some(Secret::new(token())),
            ca_pin: Some("ab".repeat(32)),
        },
        moved_authority: None,
        servers: vec!["192.168.1.10".into(), "pi-1.local:6443".into()],
        wifi: Some(Wifi {
            ssid: "Café \"7\"".into(),
            password: Some(Secret::new("correct horse \\ battery")),
            country: "DE".into(),
        }),
        ssh_keys: vec![key("me@laptop")],
        time: Some("2026-05-17T12:00:00Z".parse::<Timestamp>().unwrap()),
    }
}

fn server() -> Seed {
    Seed {
        node: "pi-1".into(),
        membership: Membership::Server(Some(Authority {
            ca_certificate: pem("CERTIFICATE", &[1; 300]),
            ca_key: Secret::new(pem("PRIVATE KEY", &[2; 138])),
            join_key: Secret::new("0f".repeat(32)),
        })),
        servers: Vec::new(),
        wifi: None,
        ..node()
    }
}

fn problems(text: &str) -> Vec<Problem> {
    Seed::parse(text, Stage::FirstBoot).unwrap_err()
}

fn said(text: &str) -> String {
    seed::listed(&problems(text))
}

#[test]
fn a_rendered_seed_is_read_as_it_was() {
    for seed in [node(), server()] {
        assert_eq!(Seed::parse(&seed.render(), Stage::FirstBoot), Ok(seed));
    }
}

#[test]
fn three_lines_are_enough_for_a_server_and_four_for_a_node() {
    let text = "cluster = \"home\"\nname = \"pi-1\"\nrole = \"server\"\n";
    assert!(Seed::parse(text, Stage::FirstBoot).is_ok());
    let text = text.replace("server", "node");
    assert!(said(&text).contains("token: a node needs a join token"));
    assert!(Seed::parse(&format!("{text}token = \"{}\"", token()), Stage::FirstBoot).is_ok());
    assert!(Seed::parse(&text, Stage::Joined).is_ok());
}

#[test]
fn files_saved_by_windows_are_read() {
    let text = node().render().replace('\n', "\r\n");
    assert_eq!(
        Seed::parse_bytes(format!("\u{feff}{text}").as_bytes(), Stage::FirstBoot),
        Ok(node())
    );
    let text = server().render().replace('\n', "\r\n");
    assert!(Seed::parse(&text, Stage::FirstBoot).is_ok());
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(text.bytes().flat_map(|byte| [byte, 0]))
        .collect();
    let problem = Seed::parse_bytes(&utf16, Stage::FirstBoot).unwrap_err();
    assert!(problem[0].message.contains("UTF-8"));
    let latin = b"cluster = \"home\"\nname = \"caf\xe9\"\n";
    assert_eq!(Seed::parse_bytes(latin, Stage::FirstBoot).unwrap_err()[0].line, Some(2));
    assert!(Seed::parse_bytes(&vec![b'#'; seed::MOST + 1], Stage::FirstBoot).is_err());
    assert!(Seed::parse(&"#".repeat(seed::MOST + 1), Stage::FirstBoot).is_err());
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_the_nearest_one() {
    let text = "cluster = \"rack1\"\nname = \"pi-1\"\nrole = \"server\"\nssh_key = []\n\n[wifi]\nssid = \"x\"\npasswort = \"12345678\"\ncountry = \"DE\"\n";
    let said = said(text);
    assert!(
        said.contains("minidc.toml: line 4: ssh_key: there is no such key; did you mean \"ssh_keys\"?"),
        "{said}"
    );
    assert!(
        said.contains("minidc.toml: line 8: wifi.passwort: there is no such key; did you mean \"password\"?"),
        "{said}"
    );
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let text = "cluster = \"rack1\"\nname = \"pi-1\"\nrole = \"server\"\nssid = \"x\"\n[wifi]\nssid = \"x\"\ncountry = \"DE\"\nrole = \"node\"\n";
    let said = said(text);
    assert!(
        said.contains("line 4: ssid: there is no such key; \"ssid\" belongs below a line [wifi]"),
        "{said}"
    );
    assert!(
        said.contains("line 8: wifi.role: there is no such key; \"role\" belongs above the line [wifi]"),
        "{said}"
    );
}

#[test]
fn every_mistake_is_listed_at_once_in_the_order_of_lines() {
    let text = r#"cluster = "My Rack"
name = "pi_1"
role = "worker"
token = "minidc1.abc"
ca_pin = "12"
server = ["https://10.0.0.1", "10.0.0.256", "pi-1:0"]
ssh_keys = ["AAAA", 5, "-----BEGIN OPENSSH PRIVATE KEY-----"]
time = 1970-01-01T00:00:00Z
colour = "blue"
[wifi]
ssid = "a name that is longer than thirty-two bytes"
password = "short"
country = "de"
"#;
    let problems = problems(text);
    let text = seed::listed(&problems);
    for word in [
        "line 1: cluster: \"My Rack\" may have only small letters, digits and, inside, hyphens; write \"my-rack\"",
        "line 2: name: \"pi_1\"",
        "write \"pi-1\"",
        "line 3: role: \"worker\" is not a role here: write \"node\"",
        "line 4: token: the join token is cut short",
        "line 5: ca_pin: it must be 64 hex digits, these are 2",
        "line 6: server: \"https://10.0.0.1\"",
        "\"10.0.0.256\" is neither",
        "the port of \"pi-1:0\"",
        "line 7: ssh_keys: an SSH key begins with its type",
        "line 7: ssh_keys: it must be a text between \"quotes\", not a number",
        "this is a private key",
        "line 8: time:",
        "line 9: colour: there is no such key",
        "line 11: wifi.ssid: a Wi-Fi name has at most 32 bytes, this has 43",
        "line 12: wifi.password: a Wi-Fi password has 8 to 63 characters, this has 5",
        "line 13: wifi.country: it must be in capital letters: \"DE\"",
    ] {
        assert!(text.contains(word), "{word}\n--\n{text}");
    }
    let lines: Vec<Option<usize>> = problems.iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted());
}

#[test]
fn text_that_is_not_toml_is_explained_together_with_other_mistakes() {
    let text = "cluster = rack1\nname = “pi-1”\nrole = \"server\"\n// a remark\nwhatever\nname = \"pi-1\"\nname = \"pi-2\"\n[wifi]\nssid = \"x\"\ncountry = \"Germany\"\n";
    let said = said(text);
    for word in [
        "line 1: this line is not understood",
        "line 2: this line has typographic quotes",
        "line 4: a remark begins with #",
        "line 5: this is not understood: each line has the form key = \"value\"",
        "line 7: this key is there twice",
        "line 10: wifi.country: it must be the two capital letters",
    ] {
        assert!(said.contains(word), "{word}\n--\n{said}");
    }
    assert!(!said.contains("is missing"), "{said}");
}

#[test]
fn an_empty_file_says_what_it_needs() {
    let said = said("# nothing\n");
    for word in ["cluster: the name", "name: the name", "role: it is missing"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn the_template_says_what_to_fill_in_and_nothing_else_is_needed() {
    let untouched = said(seed::template());
    let lines: Vec<&str> = untouched.lines().collect();
    assert_eq!(lines.len(), 3, "{untouched}");
    for (line, word) in lines.iter().zip([
        "cluster: this is still empty: the name of the cluster is missing",
        "name: this is still empty: the name of this board is missing",
        "role: this is still empty: it is missing: role = \"server\" or role = \"node\"",
    ]) {
        assert!(line.starts_with("minidc.toml: line ") && line.contains(word), "{line}");
    }
    let fill = |text: &str, key: &str, value: &str| {
        assert!(text.contains(&format!("\n{key} = \"\"\n")), "{key}");
        text.replace(&format!("\n{key} = \"\"\n"), &format!("\n{key} = \"{value}\"\n"))
    };
    let named = fill(&fill(seed::template(), "cluster", "rack1"), "name", "pi-1");
    let server = Seed::parse(&fill(&named, "role", "server"), Stage::FirstBoot).unwrap();
    assert_eq!((server.membership, server.wifi), (Membership::Server(None), None));
    assert!(server.servers.is_empty() && server.ssh_keys.is_empty());
    let node = fill(&named, "role", "node");
    assert!(
        said(&node).contains("token: a node needs a join token"),
        "{}",
        said(&node)
    );
    let wireless = fill(
        &fill(&fill(&node, "token", &token()), "ssid", "home"),
        "ssh_keys",
        &key("me"),
    );
    let said_text = said(&wireless);
    assert!(
        said_text.contains("wifi.password: it is empty") && said_text.contains("wifi.country: this is still empty"),
        "{said_text}"
    );
    let whole = fill(&fill(&wireless, "password", "correct horse"), "country", "DE").replace('\n', "\r\n");
    let seed = Seed::parse(&whole, Stage::FirstBoot).unwrap();
    assert_eq!(seed.wifi.unwrap().ssid, "home");
    assert_eq!(seed.ssh_keys.len(), 1);
}

#[test]
fn secrets_in_the_wrong_place_are_refused() {
    let mut text = node().render();
    text.push_str("[authority]\nca_certificate = \"x\"\n");
    let said_text = said(&text);
    assert!(
        said_text.contains("only the server's card holds the cluster's identity"),
        "{said_text}"
    );
    assert!(said_text.contains("authority.ca_key: the cluster's identity is certificate, key and join key together"));
    let text = node().render().replace("role = \"node\"", "role = \"server\"");
    assert!(said(&text).contains("token: a server joins nobody"));
}

#[test]
fn after_the_first_start_no_secret_but_the_wifi_password_stays() {
    for seed in [node(), server()] {
        let moved = seed.without_secrets();
        let text = moved.render();
        assert!(!text.contains(&token()) && !text.contains("PRIVATE KEY") && !text.contains(&"0f".repeat(32)));
        assert_eq!(Seed::parse(&text, Stage::Joined), Ok(moved));
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let text = format!("{:?}{:?}", node(), server());
    assert!(
        !text.contains("minidc1.") && !text.contains("PRIVATE") && !text.contains("battery") && !text.contains("0f0f")
    );
}

#[test]
fn the_problem_file_says_what_to_do() {
    let one = seed::report(
        &problems("cluster = \"a\"\nname = \"b\"\nrole = \"c\"\n"),
        seed::Aftermath::Waits,
    );
    assert!(
        one.starts_with("This board did not start, because there is one mistake in the file minidc.toml"),
        "{one}"
    );
    assert!(
        one.contains("  - line 3: role: \"c\" is not a role: it is \"server\" or \"node\"\r\n"),
        "{one}"
    );
    assert!(seed::report(&problems(""), seed::Aftermath::GoesOn).contains("there are 3 mistakes"));
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
}

fn printable() -> impl Strategy<Value = String> {
    "\\PC{1,32}".prop_map(|text| text.chars().filter(|character| !character.is_control()).collect())
}

prop_compose! {
    fn wifi()(
        ssid in printable().prop_filter("1 to 32 bytes", |text: &String| (1..=32).contains(&text.len())),
        password in proptest::option::of(prop_oneof!["[ -~]{8,63}", "[0-9a-fA-F]{64}"]),
        country in "[A-Z]{2}".prop_filter("that is GB", |code| code != "UK"),
    ) -> Wifi {
        Wifi { ssid, password: password.map(Secret::new), country }
    }
}

fn membership() -> impl Strategy<Value = Membership> {
    let authority = (
        proptest::collection::vec(any::<u8>(), 1..400),
        any::<[u8; 8]>(),
        "[0-9a-f]{64}",
    )
        .prop_map(|(certificate, private, join)| Authority {
            ca_certificate: pem("CERTIFICATE", &certificate),
            ca_key: Secret::new(pem("PRIVATE KEY", &private)),
            join_key: Secret::new(join),
        });
    prop_oneof![
        proptest::option::of(authority).prop_map(Membership::Server),
        (
            "[A-Za-z0-9_-]{1,90}",
            "[A-Za-z0-9_-]{43}",
            proptest::option::of("[0-9a-f]{64}")
        )
            .prop_map(|(payload, mac, ca_pin)| Membership::Node {
                token: Some(Secret::new(format!("minidc1.{payload}.{mac}"))),
                ca_pin,
            }),
    ]
}

prop_compose! {
    fn seeds()(
        cluster in label(),
        node in label(),
        membership in membership(),
        moved in proptest::option::of("[0-9a-f]{64}"),
        servers in proptest::collection::vec(prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
            any::<std::net::SocketAddrV6>().prop_map(|address| format!("[{}]:6443", address.ip())),
            (label(), 1..=u16::MAX).prop_map(|(name, port)| format!("x{name}.local:{port}")),
        ], 0..4),
        wifi in proptest::option::of(wifi()),
        ssh_keys in proptest::collection::vec(printable().prop_map(|comment| key(&comment)), 0..3),
        time in proptest::option::of(1_704_067_200_i64..4_102_444_799),
    ) -> Seed {
        Seed {
            moved_authority: moved.filter(|_| matches!(membership, Membership::Server(_))),
            cluster, node, membership, servers, wifi, ssh_keys,
            time: time.map(|second| Timestamp::from_second(second).unwrap()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_valid_seed_survives_its_file(seed in seeds()) {
        let text = seed.render();
        prop_assert_eq!(Seed::parse(&text, Stage::FirstBoot), Ok(seed.clone()), "{}", text);
        prop_assert_eq!(Seed::parse_bytes(text.replace('\n', "\r\n").as_bytes(), Stage::FirstBoot).map(|seed| seed.node), Ok(seed.node));
    }

    #[test]
    fn a_damaged_seed_is_read_or_explained_and_never_leaks(
        seed in seeds(), at in any::<proptest::sample::Index>(), length in 0_usize..6, with in "\\PC{0,3}|[\"\\\\\n=\\[#]{1,2}",
    ) {
        let text = seed.render();
        let characters: Vec<char> = text.chars().collect();
        let at = at.index(characters.len());
        let end = (at + length).min(characters.len());
        let damaged: String = characters[..at].iter().copied().chain(with.chars()).chain(characters[end..].iter().copied()).collect();
        if let Err(problems) = Seed::parse(&damaged, Stage::FirstBoot) {
            prop_assert!(!problems.is_empty());
            let said = seed::report(&problems, seed::Aftermath::Waits);
            if let Membership::Node { token: Some(token), .. } = &seed.membership {
                prop_assert!(!said.contains(&token.expose()[token.expose().len() - 20..]), "{}", said);
            }
            if let Some(Wifi { password: Some(password), .. }) = &seed.wifi {
                prop_assert!(!said.contains(password.expose()), "{}", said);
            }
        }
    }

    #[test]
    fn any_text_at_all_is_answered(text in "\\PC*|[a-z=\"\\[\\]\n. ]{0,200}") {
        let _ = Seed::parse(&text, Stage::Joined);
    }
}
