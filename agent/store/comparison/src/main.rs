//! Compares engines for the store under a Kubernetes-like load: single durable commits, each overwriting one of
//! 200 objects of 1 to 3 KB, as a status update would. Only one engine is compiled in at a time, so that the size of the
//! program tells what the engine costs:
//!
//! ```text
//! for engine in redb fjall sqlite log; do
//!     cargo run --release --features $engine -- DIRECTORY COMMITS
//! done
//! ```
//!
//! The directory should lie on a file system of its own (an ext4 image on a loop device will do), since the bytes that reach the
//! device, with the file system's own journal, are counted for the whole device.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Instant};

use support::{Random, device_bytes, key, status, value};

#[path = "../../benches/support/mod.rs"]
mod support;

const OBJECTS: u64 = 200;

trait Engine {
    fn commit(&mut self, key: &str, value: Vec<u8>);
    fn close(self);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("DIRECTORY COMMITS");
    let commits: u64 = arguments.next().expect("DIRECTORY COMMITS").parse().expect("a number");
    let directory = Path::new(&directory).join(engine::NAME);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("make the directory");
    let mut engine = engine::open(&directory);
    for object in 0..OBJECTS {
        engine.commit(&key(object), value(object, 0));
    }
    sync();
    let (device, process) = (device_bytes(&directory), process_bytes());
    let mut times = Vec::new();
    let mut random = Random(1);
    for round in 1..=commits {
        let object = random.below(OBJECTS);
        let (key, value) = (key(object), value(object, round));
        let start = Instant::now();
        engine.commit(&key, value);
        times.push(start.elapsed().as_micros());
    }
    let memory = status("RssAnon:");
    engine.close();
    sync();
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100];
    println!(
        "| {} | {:.1} | {:.1} | {} | {} | {:.1} | {:.1} |",
        engine::NAME,
        (device_bytes(&directory) - device) as f64 / commits as f64 / 1024.0,
        (process_bytes() - process) as f64 / commits as f64 / 1024.0,
        at(50),
        at(99),
        memory as f64 / 1024.0,
        size(&directory) as f64 / f64::from(1 << 20),
    );
}

fn process_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("process counters");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .expect("write_bytes");
    line.parse().expect("a number")
}

fn size(directory: &Path) -> u64 {
    fs::read_dir(directory)
        .expect("read")
        .flatten()
        .map(|entry| {
            let metadata = entry.metadata().expect("stat");
            if metadata.is_dir() {
                size(&entry.path())
            } else {
                metadata.blocks() * 512
            }
        })
        .sum()
}

fn sync() {
    std::process::Command::new("sync").status().expect("sync");
}

#[cfg(feature = "redb")]
mod engine {
    use super::*;
    use redb::TableDefinition;

    pub const NAME: &str = "redb";
    const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");

    pub fn open(directory: &Path) -> Redb {
        Redb(
            redb::Builder::new()
                .set_cache_size(2 << 20)
                .create(directory.join("store"))
                .expect("open"),
        )
    }

    pub struct Redb(redb::Database);

    impl Engine for Redb {
        fn commit(&mut self, key: &str, value: Vec<u8>) {
            let transaction = self.0.begin_write().expect("begin");
            transaction
                .open_table(TABLE)
                .expect("table")
                .insert(key, &*value)
                .expect("insert");
            transaction.commit().expect("commit");
        }

        fn close(self) {}
    }
}

#[cfg(feature = "fjall")]
mod engine {
    use super::*;

    pub const NAME: &str = "fjall";

    pub fn open(directory: &Path) -> Fjall {
        let database = fjall::Database::builder(directory)
            .cache_size(2 << 20)
            .open()
            .expect("open");
        let objects = database
            .keyspace("objects", || {
                fjall::KeyspaceCreateOptions::default().max_memtable_size(4 << 20)
            })
            .expect("keyspace");
        Fjall(database, objects)
    }

    pub struct Fjall(fjall::Database, fjall::Keyspace);

    impl Engine for Fjall {
        fn commit(&mut self, key: &str, value: Vec<u8>) {
            self.1.insert(key, value).expect("insert");
            self.0.persist(fjall::PersistMode::SyncData).expect("persist");
        }

        fn close(self) {}
    }
}

#[cfg(feature = "sqlite")]
mod engine {
    use super::*;

    pub const NAME: &str = "sqlite";

    pub fn open(directory: &Path) -> Sqlite {
        let connection = rusqlite::Connection::open(directory.join("store")).expect("open");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -2000;
                 CREATE TABLE objects (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;",
            )
            .expect("prepare");
        Sqlite(connection)
    }

    pub struct Sqlite(rusqlite::Connection);

    impl Engine for Sqlite {
        fn commit(&mut self, key: &str, value: Vec<u8>) {
            let mut statement = self
                .0
                .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?, ?)")
                .expect("statement");
            statement.execute(rusqlite::params![key, value]).expect("insert");
        }

        fn close(self) {}
    }
}

#[cfg(feature = "log")]
mod engine {
    use super::*;
    use minidc_store::{Envelope, Op, Options, Store, When};

    pub const NAME: &str = "log";

    pub fn open(directory: &Path) -> Log {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let store = runtime
            .block_on(Store::open(directory, Options::default()))
            .expect("open");
        Log(runtime, store)
    }

    pub struct Log(tokio::runtime::Runtime, Store);

    impl Engine for Log {
        fn commit(&mut self, key: &str, value: Vec<u8>) {
            let envelope = Envelope::new(value, 0, Box::default(), Box::default());
            let put = Op::Put {
                key: key.to_owned(),
                envelope,
                when: When::Always,
            };
            self.0.block_on(self.1.commit(vec![put])).expect("commit");
        }

        fn close(self) {
            self.0.block_on(self.1.close());
        }
    }
}
