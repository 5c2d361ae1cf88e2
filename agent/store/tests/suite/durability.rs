//! What survives power cuts, kills, damage and full disks.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use minidc_store::{Entry, Error, Options, Store, When};
use tempfile::TempDir;

use crate::support::{Random, put};

const DIRECTORY: &str = "STORE_TEST_DIRECTORY";

fn log(directory: &Path) -> PathBuf {
    directory.join("store.log")
}

/// A store with some commits: the directory, where each frame of the log ends, and the entries at each of these ends.
async fn history(commits: u64) -> (TempDir, Vec<u64>, Vec<Vec<Entry>>) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    let mut ends = vec![store.statistics().log_bytes];
    let mut states = vec![Vec::new()];
    let mut random = Random(5);
    for number in 0..commits {
        let key = format!("k/{}", random.below(4));
        let text = format!("{number}-{}", "some text that stays ".repeat(random.below(4) as usize));
        store.commit(vec![put(&key, &text, When::Always)]).await.unwrap();
        ends.push(store.statistics().log_bytes);
        states.push(store.list("").0);
    }
    store.close().await;
    (directory, ends, states)
}

async fn reopen(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let directory = TempDir::new().unwrap();
    fs::write(log(directory.path()), bytes).unwrap();
    let store = Store::open(directory.path(), Options::default()).await?;
    let (entries, _) = store.list("");
    if bytes.len().is_multiple_of(16) {
        // What was recovered can be written to, and found again.
        store.commit(vec![put("k/after", "1", When::Absent)]).await.unwrap();
        store.close().await;
        let store = Store::open(directory.path(), Options::default()).await.unwrap();
        assert_eq!(store.list("").0.len(), entries.len() + 1);
    }
    Ok(entries)
}

#[tokio::test]
async fn log_cut_anywhere_recovers_to_the_last_whole_batch() {
    let (directory, ends, states) = history(8).await;
    let bytes = fs::read(log(directory.path())).unwrap();
    for length in ends[0]..=*ends.last().unwrap() {
        let whole = ends.iter().rposition(|end| *end <= length).unwrap();
        let entries = reopen(&bytes[..length as usize]).await.unwrap();
        assert_eq!(entries, states[whole], "cut at {length}");
    }
}

#[tokio::test]
async fn last_batch_garbled_anywhere_is_cut() {
    let (directory, ends, states) = history(6).await;
    let bytes = fs::read(log(directory.path())).unwrap();
    let start = ends[ends.len() - 2] as usize;
    let end = ends[ends.len() - 1] as usize;
    for at in start..end {
        let mut garbled = bytes.clone();
        garbled[at] ^= 0x55;
        let entries = reopen(&garbled).await.unwrap();
        assert_eq!(entries, states[states.len() - 2], "garbled at {at}");
    }
    // As a card may do: some sectors of the write are new, others still old.
    for missing in [start..start + 20, start + 20..end] {
        let mut torn = bytes.clone();
        torn[missing].fill(0);
        let entries = reopen(&torn).await.unwrap();
        assert_eq!(entries, states[states.len() - 2]);
    }
    // Garbage after the last batch is not a batch.
    let mut trailing = bytes[..end].to_vec();
    trailing.extend_from_slice(&[0x17; 3000]);
    assert_eq!(reopen(&trailing).await.unwrap(), states[states.len() - 1]);
}

#[tokio::test]
async fn damage_before_the_last_batch_is_an_error_that_names_the_place() {
    let (directory, ends, _) = history(6).await;
    let bytes = fs::read(log(directory.path())).unwrap();
    let last = ends[ends.len() - 2];
    for at in 0..last as usize {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let frame = ends.iter().rfind(|end| **end <= at as u64).copied();
        match reopen(&damaged).await {
            Err(error @ Error::Corrupt { .. }) => {
                let Error::Corrupt { path, offset, .. } = &error else {
                    unreachable!()
                };
                assert!(path.ends_with("store.log"));
                // The header is one piece, the base the next, then come the batches.
                let expected = frame.unwrap_or(if at < 64 { 0 } else { 64 });
                assert_eq!(*offset, expected, "damaged at {at}");
                assert!(error.to_string().contains("restore the file from a backup"));
            }
            other => panic!("damaged at {at}: {other:?}"),
        }
        if at > 64 && at.is_multiple_of(7) {
            let mut zeroed = bytes.clone();
            zeroed[at..(at + 16).min(last as usize)].fill(0);
            assert!(
                matches!(reopen(&zeroed).await, Err(Error::Corrupt { .. })),
                "zeroed at {at}"
            );
        }
    }
}

#[tokio::test]
async fn damaged_log_is_left_as_it_is() {
    let (directory, ends, _) = history(3).await;
    let mut bytes = fs::read(log(directory.path())).unwrap();
    bytes[ends[0] as usize + 9] ^= 1;
    fs::write(log(directory.path()), &bytes).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            Store::open(directory.path(), Options::default()).await,
            Err(Error::Corrupt { .. })
        ));
    }
    assert_eq!(fs::read(log(directory.path())).unwrap(), bytes);
}

#[tokio::test]
async fn newer_format_is_refused_with_advice() {
    let (directory, ..) = history(1).await;
    let mut bytes = fs::read(log(directory.path())).unwrap();
    bytes[8..10].copy_from_slice(&99_u16.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    fs::write(log(directory.path()), &bytes).unwrap();
    match Store::open(directory.path(), Options::default()).await {
        Err(error @ Error::NewerFormat { found: 99, .. }) => assert!(error.to_string().contains("update minidc")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unfinished_rewrite_is_ignored() {
    let (directory, _, states) = history(5).await;
    fs::write(directory.path().join("store.log.next"), b"half a file").unwrap();
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    assert_eq!(store.list("").0, states[5]);
    store.compact(store.revision()).await.unwrap();
    store.close().await;
    assert!(!directory.path().join("store.log.next").exists());
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    assert_eq!(store.list("").0, states[5]);
}

#[tokio::test]
async fn secrets_in_the_log_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("server/store");
    Store::open(&directory, Options::default()).await.unwrap().close().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&log(&directory)), 0o600);
}

/// Starts this test program again with only the test `name`, through a shell that first runs `before`.
fn child(name: &str, directory: &Path, before: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before}\nexec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

fn child_directory() -> PathBuf {
    std::env::var_os(DIRECTORY).expect("started by another test").into()
}

#[test]
#[ignore = "the child process of acknowledged_writes_survive_a_kill"]
fn child_that_writes_until_it_is_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        // Small limits, so that the kill also hits rewrites.
        let options = Options {
            compact_bytes: 4096,
            compact_factor: 1,
            ..Options::default()
        };
        let store = Store::open(child_directory(), options).await.unwrap();
        let start = store.list("").0.len();
        for writer in 0..3 {
            let store = store.clone();
            tokio::spawn(async move {
                for number in start.. {
                    let key = format!("k/{writer}-{number:06}");
                    store.commit(vec![put(&key, "text", When::Absent)]).await.unwrap();
                    let counter = format!("counter/{writer}");
                    store
                        .commit(vec![put(&counter, &number.to_string(), When::Always)])
                        .await
                        .unwrap();
                    // One write call per line: after a kill, the lines that came out are whole.
                    std::io::stdout()
                        .write_all(format!("acknowledged {key}\n").as_bytes())
                        .unwrap();
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let directory = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=8 {
        let mut process = child("durability::child_that_writes_until_it_is_killed", directory.path(), "")
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let mut count = 0;
        for line in lines.by_ref() {
            count += usize::from(note(&line, &mut acknowledged));
            if count == round * 7 {
                break;
            }
        }
        process.kill().unwrap();
        process.wait().unwrap();
        for line in lines {
            note(&line, &mut acknowledged);
        }
        let store = Store::open(directory.path(), Options::default()).await.unwrap();
        for key in &acknowledged {
            let entry = store
                .get(key)
                .unwrap_or_else(|| panic!("round {round}: {key} was acknowledged and is gone"));
            assert_eq!(*entry.envelope, crate::support::envelope("text"));
        }
        store.close().await;
    }
}

fn note(line: &str, acknowledged: &mut Vec<String>) -> bool {
    let key = line.split_once("acknowledged ").map(|(_, key)| key.to_owned());
    let found = key.is_some();
    acknowledged.extend(key);
    found
}

#[test]
#[ignore = "the child process of full_disk_refuses_writes_and_loses_nothing"]
fn child_on_a_full_disk() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = Options {
            memory_prefixes: vec!["m/".into()],
            ..Options::default()
        };
        let store = Store::open(child_directory(), options.clone()).await.unwrap();
        let mut watch = store.watch("k/", store.revision()).unwrap();
        let mut written = Vec::new();
        let mut random = Random(3);
        let refused = loop {
            let key = format!("k/{:05}", written.len());
            let text: String = (0..3000).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
            match store.commit(vec![put(&key, &text, When::Absent)]).await {
                Ok(_) => written.push((key, text)),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
        assert!(written.len() > 20);
        for (key, _) in &written {
            assert_eq!(&**watch.next().await.unwrap().key(), key);
        }
        assert!(matches!(
            store.compact(store.revision()).await,
            Ok(()) | Err(Error::DiskFull { .. })
        ));
        assert_eq!(store.list("k/").0.len(), written.len());
        store
            .commit(vec![put("m/heartbeat", "1", When::Always)])
            .await
            .expect("memory needs no disk");

        let pid = std::process::id().to_string();
        let raised = Command::new("prlimit")
            .args(["--pid", &pid, "--fsize=unlimited"])
            .status()
            .unwrap();
        assert!(raised.success());
        let key = format!("k/{:05}", written.len());
        store
            .commit(vec![put(&key, "again", When::Absent)])
            .await
            .expect("there is room again");
        assert_eq!(**watch.next().await.unwrap().key(), *key);
        written.push((key, "again".to_owned()));
        store.close().await;

        let store = Store::open(child_directory(), options).await.unwrap();
        let found: Vec<_> = store
            .list("k/")
            .0
            .into_iter()
            .map(|entry| (entry.key.to_string(), entry.envelope))
            .collect();
        assert_eq!(found.len(), written.len());
        for ((key, text), (found, envelope)) in written.iter().zip(&found) {
            assert_eq!(key, found);
            assert_eq!(**envelope, crate::support::envelope(text));
        }
        println!("lost nothing");
    });
}

#[test]
fn full_disk_refuses_writes_and_loses_nothing() {
    // A limit on file sizes fails the write as a full disk does; the unit of ulimit differs between shells, its effect here does not.
    for blocks in [600, 777, 1111] {
        let directory = TempDir::new().unwrap();
        let before = format!("trap '' XFSZ; ulimit -S -f {blocks}");
        let output = child("durability::child_on_a_full_disk", directory.path(), &before)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("lost nothing"), "{text}");
    }
}
