//! What the cluster remembers: keys with JSON values, numbered changes, and watching them.
//!
//! This crate owns revisions, their durability and their order. It knows nothing of Kubernetes kinds: a value is an [`Envelope`] whose
//! JSON it never parses. It never decides who may change what, never talks to the network and never converts an object.
//!
//! ```text
//! commit ─→ Backend: judge, number, write (one fdatasync for all that wait) ─→ its watch ─→ cache ─→ watchers
//!                                                                                             └────→ get, list, page
//! ```
//!
//! - A [`Store`] is one cache in front of one [`Backend`]. Only the backend's watch fills the cache, also with our own writes, so readers, watchers
//!   and writers see one order. [`Store::commit`] returns when the change is durable and in the cache.
//! - Revisions are one sequence for all keys, growing also across restarts. They have gaps: every batch leaves some free for memory
//!   keys that are written while it is on its way to the disk, and a restart skips the rest of a reserved block.
//! - Keys under [`Options::memory_prefixes`] (Events, Leases) never touch the disk and do not wait for it. They may expire or be limited in
//!   number; watchers see that as removals.
//! - A watch starts in the recent past or now. The past is bounded by [`HistoryLimits`], for each memory prefix apart, and
//!   reaches back over a restart for durable keys. A watcher that is too slow gets [`Error::Lagged`], never a longer queue.
//! - The JSON exists once: cache, history, backend and readers share it.
//!
//! # The log file
//! `store.log` is a base (all entries at one moment) followed by batches, one checksummed frame each. A changed object is written
//! as the difference from what it was. Room is made in zeros of 256 KB ahead, so that a commit changes no metadata of the file system. When
//! what is outdated passes 8 MB and four times the base, a new file is written, synced and renamed over the old one.
//!
//! - After a power cut the unfinished batch at the end is cut off, with a line in the log. Anything unreadable before that is damage:
//!   [`Error::Corrupt`] names file and byte, and nothing is changed.
//! - On a full disk commits fail with [`Error::DiskFull`] and go on as soon as there is room. After a failed sync nothing in the old file is trusted:
//!   the next commit first writes a new one from memory.
//! - A lock on the file `lock` keeps a second process out. Directory and files are for their owner only, since they hold secrets.
//!
//! # Why a log of our own
//! What wears a card out is what reaches the device, the file system's journal included. Measured: 5,000 commits one after the other, each overwriting one
//! of 200 pods of 1.2 to 3 KB as a status update does, each synced; ext4 on a loop device; Linux 6.18, x86-64 (AMD EPYC, 2 cores); release
//! build, opt-level s. Times are the median on that loop device and on the machine's own disk (ext4, virtio); other
//! work on the machine made single runs up to ten times slower, for all engines alike.
//!
//! | engine | KB at the device per commit | KB written per commit | median µs | memory MB | files MB | program MB | cold build s |
//! |---|--:|--:|--:|--:|--:|--:|--:|
//! | redb 4.5 | 32.1 | 32.0 | 454 / 259 | 1.2 | 0.7 | 1.19 | 16 |
//! | fjall 3.1 (`SyncData`) | 17.2 | 6.3 | 467 / 184 | 9.2 | 11.8 | 1.36 | 31 |
//! | SQLite (rusqlite 0.41, WAL, `synchronous=FULL`) | 13.2 | 10.5 | 219 / 197 | 1.4 | 0.9 | 1.50 | 39 |
//! | this crate | 4.2 | 4.2 | 247 / 157 | 4.2 | 1.0 | 0.90 | 31 |
//! | this crate without zeros ahead | 16.5 | 4.1 | 528 / – | | | | |
//!
//! The last two hold cache, history and tokio as well, which the others would need on top. One block of 4 KB per commit is the least that can be
//! synced, and the log is 5 % above it; the libraries take three to eight times as much. Hence the log: about 1,300 lines with
//! their unit tests, tested further by cutting and garbling it at every byte, by kills and by full disks.
//!
//! ```text
//! truncate -s 1G image && mkfs.ext4 image && mount -o loop image /mnt
//! cd agent/store/comparison
//! for engine in redb fjall sqlite log; do cargo run --release --features $engine -- /mnt 5000; done
//! cd .. && STORE_BENCH_DIRECTORY=/mnt cargo bench --bench commit
//! ```
//!
//! `cargo bench` on the same machine and loop device: 251 bytes handed to the file system per status change (differences; 235 with 16 writers at once, who share
//! a sync: 0.11 per commit, 690 bytes at the device each). A heartbeat takes 0.7 µs and writes nothing, also beside a
//! busy disk (99 %: 1.4 µs). 5,000 pods of 2.1 KB open in 25 to 55 ms and take 14.2 MB of memory: 0.7 KB each beyond the JSON. Listing
//! them takes 0.15 ms. The kernel's `write_bytes` of a process overstates a log that was read back with large folios; count at the device.
//!
//! # Current limitations
//! - One process: several control planes need a backend that they can share, such as etcd, which does not exist yet. An etcd transaction gives all
//!   its changes one revision; watches here rely on each change having its own.
//! - While the log is rewritten, durable commits wait for as long as the card takes to write the base. Memory keys do not.
//! - Damage to the very last batch looks like a power cut, and is cut off like one.
//! - All entries are in memory, and each key is indexed twice (cache and backend).
//! - Age limits of the history are enforced when the next change comes, not by a timer.

mod backend;
mod entry;
mod error;
mod history;
mod options;
mod prefix;
mod statistics;
mod store;
mod watch;

pub use backend::{Backend, Embedded, Memory, Range, Sink};
pub use entry::{Change, Entry, Envelope, Op, Pairs, Revision, When};
pub use error::Error;
pub use history::History;
pub use options::{HistoryLimits, MemoryPrefix, Options};
pub use statistics::Statistics;
pub use store::Store;
pub use watch::Watch;
