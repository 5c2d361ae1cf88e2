//! Time and bytes per commit, and what watching, listing and opening cost.
//!
//! `STORE_BENCH_DIRECTORY` says where to write; bytes at the device are counted for the whole device, so a file system of its own
//! gives the true figure. Without `--bench`, as `cargo test` runs it, everything is tried once with small numbers.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use minidc_store::{Envelope, MemoryPrefix, Op, Options, Store, When};
use support::{Random, device_bytes, key, status, value};

mod support;

/// Set for the process that only fills a store with so many objects.
const FILL: &str = "STORE_BENCH_FILL";
const LEASES: &str = "coordination.k8s.io/leases/";

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    let times = if full { 1 } else { 100 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if let Ok(objects) = std::env::var(FILL) {
        let directory = std::env::args_os().nth(1).expect("the directory to fill");
        runtime.block_on(fill(Path::new(&directory), objects.parse().expect("a number")));
        return;
    }
    runtime.block_on(async {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = std::env::var_os("STORE_BENCH_DIRECTORY")
            .map_or_else(|| temporary.path().to_owned(), PathBuf::from)
            .join("store");
        let _ = std::fs::remove_dir_all(&directory);
        large(&directory, 5000 / times).await;
        watchers(300, 2000 / times).await;
        println!();
        println!("| what | commits | mean µs | median µs | 99 % µs | bytes written | bytes at the device | syncs |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|");
        for writers in [1, 16] {
            durable(&directory, writers, 4000 / times).await;
        }
        heartbeats(&directory, 20_000 / times, false).await;
        heartbeats(&directory, 20_000 / times, true).await;
        let _ = std::fs::remove_dir_all(&directory);
    });
}

fn options() -> Options {
    Options {
        memory_prefixes: vec![MemoryPrefix::new(LEASES)],
        ..Options::default()
    }
}

fn pod(object: u64, round: u64) -> Op {
    let labels = Box::new([
        ("app".into(), "web".into()),
        ("pod-template-hash".into(), "7d4b9c6f5d".into()),
    ]);
    let fields = Box::new([
        ("spec.nodeName".into(), "pi-1".into()),
        ("status.phase".into(), "Running".into()),
    ]);
    let json = value(object, round);
    Op::Put {
        key: key(object),
        envelope: Envelope::new(json, 40, labels, fields),
        when: When::Always,
    }
}

fn lease(node: u64, round: u64) -> Op {
    let json = format!(
        "{{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\",\"metadata\":{{\"name\":\"pi-{node}\",\"namespace\":\"kube-node-lease\"}},\
         \"spec\":{{\"holderIdentity\":\"pi-{node}\",\"leaseDurationSeconds\":40,\"renewTime\":\"2025-01-01T00:00:00.{round:06}Z\"}}}}"
    );
    let envelope = Envelope::new(json, 70, Box::default(), Box::default());
    Op::Put {
        key: format!("{LEASES}kube-node-lease/pi-{node}"),
        envelope,
        when: When::Always,
    }
}

/// Counters before a run, and the line of the table after it.
struct Meter {
    store: Store,
    before: minidc_store::Statistics,
    device: u64,
    directory: PathBuf,
}

impl Meter {
    fn start(store: &Store, directory: &Path) -> Self {
        sync();
        Self {
            store: store.clone(),
            before: store.statistics(),
            device: device_bytes(directory),
            directory: directory.to_owned(),
        }
    }

    fn print(self, what: &str, mut times: Vec<Duration>) {
        sync();
        let device = device_bytes(&self.directory) - self.device;
        let after = self.store.statistics();
        times.sort_unstable();
        let count = times.len().max(1);
        let total: Duration = times.iter().sum();
        let at = |part: usize| {
            times
                .get(count * part / 100)
                .map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        println!(
            "| {what} | {count} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.2} |",
            total.as_secs_f64() * 1e6 / count as f64,
            at(50),
            at(99),
            (after.bytes_written - self.before.bytes_written) as f64 / count as f64,
            device as f64 / count as f64,
            (after.syncs - self.before.syncs) as f64 / count as f64,
        );
    }
}

async fn durable(directory: &Path, writers: u64, commits: u64) {
    let store = Store::open(directory, options()).await.expect("open");
    for object in 0..200 {
        store.commit(vec![pod(object, 0)]).await.expect("commit");
    }
    let meter = Meter::start(&store, directory);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut random = Random(writer);
                let mut times = Vec::new();
                for round in 0..commits / writers {
                    let operation = pod(random.below(200), round + 1);
                    let start = Instant::now();
                    store.commit(vec![operation]).await.expect("commit");
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a writer"));
    }
    meter.print(&format!("pod status, {writers} at a time"), times);
    store.close().await;
}

async fn heartbeats(directory: &Path, commits: u64, busy: bool) {
    let store = Store::open(directory, options()).await.expect("open");
    store.commit(vec![lease(0, 0)]).await.expect("commit");
    let writer = busy.then(|| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 1.. {
                if store.commit(vec![pod(round % 200, round)]).await.is_err() {
                    break;
                }
            }
        })
    });
    let meter = Meter::start(&store, directory);
    let mut times = Vec::new();
    for round in 0..commits {
        let operation = lease(round % 10, round);
        let start = Instant::now();
        store.commit(vec![operation]).await.expect("commit");
        times.push(start.elapsed());
    }
    meter.print(
        if busy {
            "heartbeat beside a busy disk (bytes are the pods')"
        } else {
            "heartbeat"
        },
        times,
    );
    store.close().await;
    if let Some(writer) = writer {
        writer.await.expect("the writer");
    }
}

async fn watchers(count: u64, changes: u64) {
    let store = Store::in_memory(options());
    let mut tasks = Vec::new();
    for number in 0..count {
        // A third watches all pods, the others a namespace that is quiet.
        let prefix = if number % 3 == 0 {
            "core/pods/".to_owned()
        } else {
            format!("core/pods/quiet-{number}/")
        };
        let mut watch = store.watch(&prefix, 0).expect("watch");
        tasks.push(tokio::spawn(async move {
            let mut seen = 0;
            while watch.next().await.is_ok() {
                seen += 1;
            }
            seen
        }));
    }
    let start = Instant::now();
    for round in 0..changes {
        store.commit(vec![pod(round % 200, round + 1)]).await.expect("commit");
    }
    let committed = start.elapsed();
    store.close().await;
    let mut seen = 0_u64;
    for task in tasks {
        seen += task.await.expect("a watcher");
    }
    println!(
        "{count} watchers, a third of them concerned: {:.1} µs per change to commit, {:.2} µs per change delivered",
        committed.as_secs_f64() * 1e6 / changes as f64,
        start.elapsed().as_secs_f64() * 1e6 / seen.max(1) as f64
    );
}

/// Fills a store in a process of its own, so that the memory of opening it can be told here.
async fn large(directory: &Path, objects: u64) {
    let directory = directory.with_extension("large");
    let program = std::env::current_exe().expect("this program");
    let filled = std::process::Command::new(program)
        .env(FILL, objects.to_string())
        .arg(&directory)
        .status();
    assert!(filled.expect("start the process that fills").success());
    let before = status("RssAnon:");
    let start = Instant::now();
    let store = Store::open(&directory, options()).await.expect("open");
    let opened = start.elapsed();
    let memory = status("RssAnon:").saturating_sub(before);
    let (entries, _) = store.list("");
    let json: usize = entries.iter().map(|entry| entry.envelope.json.len()).sum();
    println!(
        "{} pods of {} bytes of JSON: log {:.1} MB, opened in {:.0} ms, memory {:.1} MB",
        entries.len(),
        json / entries.len(),
        store.statistics().log_bytes as f64 / 1e6,
        opened.as_secs_f64() * 1e3,
        memory as f64 / 1e3,
    );
    drop(entries);
    let start = Instant::now();
    for _ in 0..20 {
        std::hint::black_box(store.list("core/pods/"));
    }
    println!("list of them: {:.0} µs", start.elapsed().as_secs_f64() * 1e6 / 20.0);
    store.close().await;
    let _ = std::fs::remove_dir_all(&directory);
}

async fn fill(directory: &Path, objects: u64) {
    let _ = std::fs::remove_dir_all(directory);
    let store = Store::open(directory, options()).await.expect("open");
    for object in 0..objects {
        store.commit(vec![pod(object, 1)]).await.expect("commit");
    }
    store.compact(store.revision()).await.expect("compact");
    store.close().await;
}

fn sync() {
    std::process::Command::new("sync").status().expect("sync");
}
