use std::time::Duration;

use super::*;
use crate::dns::zonefile::Record;

const GOOD: &str = "$TTL 1\n@ SOA a b 1 1 1 1 1\n@ NS a\na A 1.1.1.1\n";
const BAD: &str = "$TTL 1\n@ SOA a b 1 1 1 1 1\n@ NS a\na A 1.1.1\n";

fn file(config_map: &str, file: &str, text: &str) -> ZoneFile {
    ZoneFile {
        config_map: config_map.into(),
        file: file.into(),
        text: text.into(),
    }
}

struct Served {
    files: watch::Sender<Arc<ZoneFiles>>,
    zones: watch::Receiver<Arc<Zones>>,
    problems: watch::Receiver<Arc<[ZoneProblem]>>,
    shutdown: CancellationToken,
}

impl Served {
    fn start(keep: Option<&Path>) -> Self {
        let keeper = ZoneKeeper::new("cluster.local", keep.map(Path::to_path_buf)).unwrap();
        let files = watch::Sender::new(Arc::default());
        let served = Self {
            files: files.clone(),
            zones: keeper.zones(),
            problems: keeper.problems(),
            shutdown: CancellationToken::new(),
        };
        tokio::spawn(keeper.run(files.subscribe(), served.shutdown.clone()));
        served
    }

    /// Gives these files and waits for the zones that come of it.
    async fn give(&mut self, files: Vec<ZoneFile>) {
        // the zones of before are seen before others are made
        tokio::time::timeout(Duration::from_secs(60), async {
            self.files.send_replace(Arc::new(ZoneFiles { files }));
            self.zones.changed().await.unwrap();
            self.zones.borrow_and_update();
        })
        .await
        .unwrap();
    }

    async fn first(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.zones.changed())
            .await
            .unwrap()
            .unwrap();
        self.zones.borrow_and_update();
    }

    fn serves(&self, name: &str) -> bool {
        self.zones.borrow().contains(&Name::parse(name).unwrap())
    }

    /// What is told, once it is of this number.
    async fn told(&mut self, count: usize) -> Vec<(String, u32, Serving)> {
        let told = self.problems.wait_for(|problems| problems.len() == count);
        let told = tokio::time::timeout(Duration::from_secs(60), told)
            .await
            .unwrap()
            .unwrap();
        told.iter()
            .map(|problem| {
                (
                    format!("{}/{}", problem.config_map, problem.file),
                    problem.line,
                    problem.serving,
                )
            })
            .collect()
    }
}

#[tokio::test]
async fn the_last_good_version_is_served_while_a_bad_one_is_told() {
    let mut served = Served::start(None);
    served.first().await;
    served
        .give(vec![
            file("teams", "db.example.com", GOOD),
            file("teams", "bad.org.zone", BAD),
        ])
        .await;
    assert!(served.serves("example.com") && !served.serves("bad.org"));
    assert_eq!(
        served.told(1).await,
        [("teams/bad.org.zone".to_owned(), 4, Serving::Nothing)]
    );
    served.give(vec![file("teams", "db.example.com", BAD)]).await;
    assert!(served.serves("example.com"));
    assert_eq!(
        served.told(1).await,
        [("teams/db.example.com".to_owned(), 4, Serving::Earlier)]
    );
    served.give(vec![file("teams", "db.example.com", GOOD)]).await;
    assert!(served.told(0).await.is_empty());
    served.give(vec![]).await;
    assert!(!served.serves("example.com"));
    served.shutdown.cancel();
}

#[tokio::test]
async fn the_last_good_version_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let keep = directory.path().join("zones");
    let mut served = Served::start(Some(&keep));
    served.first().await;
    served.give(vec![file("teams", "example.com", GOOD)]).await;
    served.shutdown.cancel();
    let mut served = Served::start(Some(&keep));
    served.first().await;
    assert!(!served.serves("example.com"), "only what config maps hold is served");
    served.give(vec![file("teams", "example.com", BAD)]).await;
    assert!(served.serves("example.com"));
    assert_eq!(served.told(1).await[0].2, Serving::Earlier);
    served.give(vec![]).await;
    assert!(!keep.join("teams").exists());
    served.shutdown.cancel();
}

#[tokio::test]
async fn a_zone_has_one_file_and_some_names_have_none() {
    let mut served = Served::start(None);
    served.first().await;
    served
        .give(vec![
            file("b", "example.com", GOOD),
            file("a", "db.Example.com.zone", GOOD),
            file("a", "x.cluster.local", GOOD),
            file("a", "db.local", GOOD),
            file("a", ".", GOOD),
            file("a", "a..b", GOOD),
        ])
        .await;
    assert!(served.serves("example.com") && !served.serves("x.cluster.local") && !served.serves("local"));
    let told: Vec<String> = served.told(5).await.into_iter().map(|(file, ..)| file).collect();
    assert_eq!(
        told,
        ["a/.", "a/a..b", "a/db.local", "a/x.cluster.local", "b/example.com"]
    );
    served.shutdown.cancel();
}

/// A small generator of numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % sides
    }
}

const SEEDS: [&str; 4] = [
    GOOD,
    "$ORIGIN example.com.\n@ 1h IN SOA ns root (\n 1 ; x\n 1h 2h 3w 4 )\n  NS ns\nns A 10.0.0.1\n$GENERATE 1-5/2 h${0,3,d} CNAME ns\n*.w MX 10 ns\nd DNAME e\nt NS ns.t\nns.t AAAA ::1\n",
    "@ 1 SOA . . 1 2 3 4 5\n@ 1 NS .\na 1 TXT \"q;(\" \\; x\\032y\nb 1 TYPE99 \\# 2 0161\nc 1 CAA 0 issue \"x\"\nd 1 HTTPS 1 . alpn=\"h2,h3\" ipv4hint=1.2.3.4\n",
    "$TTL 1w\n@ SOA a. b. 0 0 0 0 0\n NS a.\n_x._tcp SRV 0 0 1 a\nn NAPTR 1 2 \"u\" \"e\" \"!^.*$!a!\" .\ne EUI48 00-00-00-00-00-01\nk DNSKEY 256 3 ED25519 AAAA\nl SSHFP 1 1 aa\n",
];

#[test]
fn no_file_makes_the_reader_panic_and_what_it_reads_is_well_formed() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let apex = Name::parse("example.com").unwrap();
    let words = [
        "(",
        ")",
        "\"",
        "\\",
        "\\#",
        "$",
        "$TTL ",
        "$GENERATE 0-9 $ A ",
        "${",
        "}",
        "*",
        "@",
        ".",
        "\n",
        " ",
        ";",
        "IN",
        "\u{e9}",
        "4294967296",
        "255",
    ];
    for round in 0..20_000 {
        let mut text = SEEDS[round % SEEDS.len()].to_owned();
        for _ in 0..=dice.roll(6) {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            if places.is_empty() {
                break;
            }
            let at = places[dice.roll(places.len())];
            match dice.roll(3) {
                0 => text.insert_str(at, words[dice.roll(words.len())]),
                1 => {
                    text.remove(at);
                }
                _ => text.truncate(at),
            }
        }
        let parsed = zonefile::parse(&text, &apex);
        for Record { owner, data, line, .. } in &parsed.records {
            assert!(
                Name::from_wire(owner).is_some_and(|owner| owner.is_within(&apex)),
                "{text}"
            );
            assert!(data.len() <= usize::from(u16::MAX) && *line > 0, "{text}");
        }
        let (zone, notes) = read(&text, &apex);
        assert_eq!(zone.is_none(), notes.iter().any(|note| note.fatal), "{text}\n{notes:?}");
    }
}
