//! The same zone files in our server and in BIND: the same answers, asked for with `dig`, for every name there is, names
//! beside and below them, and many types.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    num::NonZero,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use minidc_net::{
    Range,
    dns::{Config, Dns, Limits, Rate, SearchPaths, Upstreams, ZoneFile, ZoneFiles},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const ZONES: [(&str, &str); 2] = [
    ("example.com", include_str!("zones_as_bind/example.com.zone")),
    ("plain.org", include_str!("zones_as_bind/plain.org.zone")),
];

const TYPES: [&str; 30] = [
    "A",
    "NS",
    "CNAME",
    "SOA",
    "PTR",
    "HINFO",
    "MX",
    "TXT",
    "RP",
    "AFSDB",
    "AAAA",
    "SRV",
    "NAPTR",
    "KX",
    "DNAME",
    "DS",
    "SSHFP",
    "DNSKEY",
    "DHCID",
    "TLSA",
    "SVCB",
    "HTTPS",
    "EUI48",
    "EUI64",
    "URI",
    "CAA",
    "TYPE29",
    "TYPE99",
    "TYPE65280",
    "TYPE65281",
];

/// Longer than anything here takes on a machine that is not dead.
const LIMIT: Duration = Duration::from_secs(60);

/// BIND, until it is dropped.
struct Bind {
    process: Child,
    address: SocketAddr,
}

impl Drop for Bind {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A free port below those that the kernel gives to clients: dig takes one of these for each question, and would now and then
/// talk to itself if the server's were among them.
fn free_address() -> Result<SocketAddr> {
    let first = 10_000 + u16::try_from(std::process::id() % 10_000)?;
    let mut addresses = (first..first + 1000).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let is_free = |address: &SocketAddr| UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok();
    addresses.find(is_free).context("no free port")
}

impl Bind {
    fn start(directory: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut text = format!(
            "options {{ directory \"{}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; \
             minimal-responses yes; zero-no-soa-ttl no; check-names primary ignore; pid-file none; session-keyfile none; }};\n\
             controls {{ }};\n",
            directory.display(),
            address.port()
        );
        for (zone, file) in ZONES {
            fs::write(directory.join(zone), file)?;
            text += &format!("zone \"{zone}\" {{ type primary; file \"{zone}\"; }};\n");
        }
        let configuration = directory.join("named.conf");
        fs::write(&configuration, text)?;
        let process = Command::new("named")
            .args(["-g", "-n", "1", "-c"])
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log"))?)
            .spawn()
            .context("start named (Debian package bind9)")?;
        Ok(Self { process, address })
    }
}

/// What was answered to one question: code, whether with authority, records of the answer and authority sections.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    question: String,
    status: String,
    authoritative: bool,
    records: BTreeSet<String>,
}

/// Asks all questions, one after the other.
fn dig(server: SocketAddr, questions: &[String], directory: &Path) -> Result<Vec<Answer>> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    for question in questions {
        writeln!(file, "{question}")?;
    }
    let output = Command::new("dig")
        .args([
            "@127.0.0.1",
            "-p",
            &server.port().to_string(),
            "+norecurse",
            "+noedns",
            "+nocookie",
            "+timeout=10",
            "+tries=3",
            "-f",
        ])
        .arg(file.path())
        .args(["+noall", "+comments", "+question", "+answer", "+authority"])
        .output()
        .context("run dig (Debian package bind9-dnsutils)")?;
    let text = String::from_utf8(output.stdout)?;
    text.split(";; ->>HEADER<<-").skip(1).map(read).collect()
}

fn read(text: &str) -> Result<Answer> {
    let (_, rest) = text.split_once("status: ").context("no status")?;
    let (status, _) = rest.split_once(',').context("no status")?;
    let (_, rest) = text.split_once(";; flags:").context("no flags")?;
    let (flags, _) = rest.split_once(';').context("no flags")?;
    let mut section = "";
    let mut question = String::new();
    let mut records = BTreeSet::new();
    for line in text.lines() {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(name) = line.strip_suffix(" SECTION:") {
            section = name.trim_start_matches(";; ");
        } else if section == "QUESTION" && line.starts_with(';') {
            question = words;
        } else if !section.is_empty() && !line.starts_with(';') && !words.is_empty() {
            // owners are names of the question or of aliases, in either case of letters
            let (owner, data) = words.split_once(' ').context("a record without data")?;
            records.insert(format!("{section}: {} {data}", owner.to_lowercase()));
        }
    }
    Ok(Answer {
        question,
        status: status.to_owned(),
        authoritative: flags.split_whitespace().any(|flag| flag == "aa"),
        records,
    })
}

fn wait_for_zones(server: SocketAddr, directory: &Path) -> Result<()> {
    let questions: Vec<String> = ZONES.iter().map(|(zone, _)| format!("{zone} SOA")).collect();
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        let answers = dig(server, &questions, directory)?;
        if answers.len() == ZONES.len() && answers.iter().all(|answer| !answer.records.is_empty()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!(
        "{server} does not serve the zones: {}",
        fs::read_to_string(directory.join("log")).unwrap_or_default()
    )
}

/// Every name of the zones, names below it that do not exist, and wildcards.
fn questions(directory: &Path) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for (zone, _) in ZONES {
        let output = Command::new("named-compilezone")
            .args(["-k", "ignore", "-q", "-o", "-", zone])
            .arg(directory.join(zone))
            .output()
            .context("run named-compilezone (Debian package bind9-utils)")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        for line in String::from_utf8(output.stdout)?.lines() {
            // escaped dots would be cut wrongly: what is above them is asked for by others
            let Some(owner) = line.split_whitespace().next().map(str::to_lowercase) else {
                continue;
            };
            let mut rest = owner.as_str();
            while rest.ends_with(&format!("{zone}.")) {
                for prefix in ["", "zz.", "*.", "q.zz."] {
                    names.insert(format!("{prefix}{rest}"));
                }
                match rest.split_once('.') {
                    Some((_, above)) if !owner.contains('\\') => rest = above,
                    _ => break,
                }
            }
        }
    }
    ensure!(names.len() > 200, "only {} names", names.len());
    // each name is asked for with the common types, and with some of the others
    let mut questions = Vec::new();
    for (index, name) in names.iter().enumerate() {
        for (number, kind) in TYPES.iter().enumerate() {
            if matches!(*kind, "A" | "CNAME" | "NS" | "TXT" | "MX")
                || !name.starts_with(['z', 'q', '*'])
                || (index + number) % 5 == 0
            {
                questions.push(format!("{name} {kind}"));
            }
        }
    }
    Ok(questions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_zone_files_give_the_same_answers_as_in_bind() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_path_buf();
    let bind = Bind::start(&path)?;

    let all = Rate {
        per_second: 1_000_000,
        burst: 1_000_000,
    };
    let dns = Dns::new(Config {
        address: free_address()?,
        domain: "cluster.local".into(),
        node: "here".into(),
        pod_range: Range::around(Ipv4Addr::new(100, 64, 0, 0), 16),
        service_range: Range::around(Ipv4Addr::new(100, 65, 0, 0), 16),
        upstreams: Upstreams::Configured(vec![]),
        keep: None,
        cache_bytes: 1 << 16,
        limits: Limits {
            queries: all,
            outside: all,
        },
        workers: NonZero::new(1),
    })?;
    let ours = dns.address();
    let file = |(zone, text): (&str, &str)| ZoneFile {
        config_map: "zones".into(),
        file: format!("db.{zone}").into(),
        text: text.into(),
    };
    let (_tell, facts) = mpsc::unbounded_channel();
    let (_files, zones) = watch::channel(Arc::new(ZoneFiles {
        files: ZONES.map(file).to_vec(),
    }));
    let (_paths, pods) = watch::channel(Arc::new(SearchPaths::default()));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(dns.run(facts, zones, pods, shutdown.clone()));

    let (theirs, ours) = tokio::task::spawn_blocking(move || {
        wait_for_zones(bind.address, &path)?;
        wait_for_zones(ours, &path)?;
        let questions = questions(&path)?;
        let theirs = dig(bind.address, &questions, &path)?;
        let ours = dig(ours, &questions, &path)?;
        ensure!(
            theirs.len() == questions.len(),
            "BIND answered {} of {} questions",
            theirs.len(),
            questions.len()
        );
        ensure!(
            ours.len() == questions.len(),
            "we answered {} of {} questions",
            ours.len(),
            questions.len()
        );
        anyhow::Ok((theirs, ours))
    })
    .await??;
    shutdown.cancel();
    running.await??;

    let different: Vec<_> = theirs
        .iter()
        .zip(&ours)
        .filter(|(theirs, ours)| theirs != ours)
        .collect();
    assert!(
        different.is_empty(),
        "{} of {} answers differ, such as {:#?}",
        different.len(),
        theirs.len(),
        different.first()
    );
    Ok(())
}
