use super::*;

fn servers(addresses: &[&str]) -> Servers {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Servers::new(
        Upstreams::Configured(addresses),
        vec!["192.0.2.53:53".parse().unwrap(), "0.0.0.0:5353".parse().unwrap()],
    )
}

fn order(servers: &Servers, now: Instant) -> Vec<String> {
    servers
        .order(now)
        .iter()
        .map(|server| server.address.ip().to_string())
        .collect()
}

#[test]
fn the_order_is_that_of_the_file_and_then_that_of_speed() {
    let now = Instant::now();
    let all = servers(&["10.0.0.1:53", "10.0.0.2:53"]);
    assert_eq!(order(&all, now), ["10.0.0.1", "10.0.0.2"]);
    let (list, _) = all.current(now);
    list[0].answered(Duration::from_millis(100));
    assert_eq!(order(&all, now), ["10.0.0.2", "10.0.0.1"]);
    list[1].answered(Duration::from_millis(90));
    assert_eq!(order(&all, now), ["10.0.0.2", "10.0.0.1"]);
    // the slower one is tried again in the end
    let turns = (0..100).take_while(|_| order(&all, now)[0] == "10.0.0.2").count();
    assert!((1..100).contains(&turns), "{turns}");
}

#[test]
fn one_that_fails_is_left_alone_and_then_tried_by_one_question() {
    let now = Instant::now();
    let all = servers(&["10.0.0.1:53", "10.0.0.2:53"]);
    let (list, _) = all.current(now);
    for _ in 0..FAILURES_TO_DOWN {
        assert_eq!(order(&all, now).len(), 2);
        list[0].failed(now);
    }
    assert_eq!(order(&all, now), ["10.0.0.2"]);
    assert_eq!(all.stats()[0].state, ServerState::Down);
    let later = now + DOWN.0;
    assert_eq!(order(&all, later), ["10.0.0.2", "10.0.0.1"]);
    assert_eq!(order(&all, later), ["10.0.0.2"], "only one question tries it");
    list[0].answered(Duration::from_millis(5));
    assert_eq!(order(&all, later).len(), 2);
    for _ in 0..FAILURES_TO_DOWN {
        list[0].failed(now);
        list[1].failed(now);
    }
    assert!(order(&all, now).is_empty());
}

#[test]
fn our_own_addresses_are_never_asked() {
    let now = Instant::now();
    let all = servers(&["192.0.2.53:53", "127.0.0.1:5353", "127.0.0.53:53", "192.0.2.53:5300"]);
    assert_eq!(order(&all, now), ["127.0.0.53", "192.0.2.53"]);
}

#[test]
fn one_that_asks_us_what_we_ask_it_is_left_out_until_it_no_longer_does() {
    let now = Instant::now();
    let all = servers(&["10.0.0.1:53", "10.0.0.2:53"]);
    let probed = all.to_probe(now);
    assert_eq!(probed.len(), 2);
    assert!(all.to_probe(now).is_empty(), "each once");
    let mut asked = probed[1].probe_name();
    asked[1..33].make_ascii_uppercase();
    assert!(all.is_probe(&asked, now));
    assert!(!all.is_probe(&Server::new("10.0.0.1:53".parse().unwrap()).probe_name(), now));
    assert!(!all.is_probe(b"\x01a\0", now));
    assert_eq!(order(&all, now), ["10.0.0.1"]);
    assert_eq!(all.stats()[1].state, ServerState::Loop);
    let later = now + LOOP;
    let again = all.to_probe(later);
    assert_eq!(again.len(), 1);
    again[0].begin_probe();
    assert_eq!(order(&all, later).len(), 2);
}

#[test]
fn a_changed_file_is_read_and_one_that_is_gone_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let all = Servers::new(Upstreams::ResolvConf(path.clone()), vec![]);
    let mut now = Instant::now();
    assert!(order(&all, now).is_empty());
    let mut after = |text: Option<&str>| {
        match text {
            Some(text) => {
                // as programs write it: a new file takes the place of the old one
                std::fs::write(path.with_extension("new"), text).unwrap();
                std::fs::rename(path.with_extension("new"), &path).unwrap();
            }
            None => std::fs::remove_file(&path).unwrap(),
        }
        now += LOOK_EVERY;
        order(&all, now)
    };
    assert_eq!(after(Some("nameserver 10.0.0.1\n")), ["10.0.0.1"]);
    assert_eq!(after(None), ["10.0.0.1"]);
    assert_eq!(
        after(Some("nameserver 10.0.0.2\nnameserver 10.0.0.1\n")),
        ["10.0.0.2", "10.0.0.1"]
    );
    assert_eq!(after(Some("\n")), Vec::<String>::new());
}
