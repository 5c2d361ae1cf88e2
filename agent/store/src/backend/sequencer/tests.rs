//! What happens around the disk write, with a disk that the test controls.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    task::Poll,
};

use super::*;
use crate::{Envelope, When};

/// Each write waits for the test's word on how it ends.
struct Disk {
    begun: Sender<usize>,
    outcome: Receiver<Result<(), bool>>,
    rewrites: Receiver<Result<(), ()>>,
    wanted: Rewrite,
}

struct Control {
    begun: Receiver<usize>,
    outcome: Sender<Result<(), bool>>,
    rewrites: Sender<Result<(), ()>>,
}

impl Journal for Disk {
    fn append(&mut self, changes: &[Arc<Change>], _reserved: Option<Revision>) -> Result<(), Failure> {
        let _ = self.begun.send(changes.len());
        match self.outcome.recv() {
            Ok(Err(uncertain)) => {
                self.wanted = if uncertain { Rewrite::First } else { Rewrite::No };
                Err(Failure {
                    error: Error::DiskFull { path: "disk".into() },
                    uncertain,
                })
            }
            _ => Ok(()),
        }
    }

    fn rewrite_wanted(&self) -> Rewrite {
        self.wanted
    }

    fn rewrite(&mut self, _entries: &[Entry], _revision: Revision, _reserved: Revision) -> Result<(), Error> {
        if let Ok(Err(())) = self.rewrites.recv() {
            return Err(Error::DiskFull { path: "disk".into() });
        }
        self.wanted = Rewrite::No;
        Ok(())
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}

fn sequencer() -> (Arc<Sequencer>, Control) {
    let (begun_sender, begun) = channel();
    let (outcome, outcome_receiver) = channel();
    let (rewrites, rewrites_receiver) = channel();
    let disk = Disk {
        begun: begun_sender,
        outcome: outcome_receiver,
        rewrites: rewrites_receiver,
        wanted: Rewrite::No,
    };
    let options = Options {
        memory_prefixes: vec!["m/".into()],
        ..Options::default()
    };
    let state = State {
        entries: BTreeMap::new(),
        history: History::new(&options, 0, 0),
        revision: 0,
        reserved: Revision::MAX - RESERVATION,
    };
    let sequencer = Sequencer::durable(&options, state, Box::new(disk)).unwrap();
    (
        Arc::new(sequencer),
        Control {
            begun,
            outcome,
            rewrites,
        },
    )
}

fn put(key: &str, text: &str) -> Vec<Op> {
    let envelope = Envelope::new(text, 0, Box::default(), Box::default());
    vec![Op::Put {
        key: key.to_owned(),
        envelope,
        when: When::Always,
    }]
}

type Commit = futures::future::BoxFuture<'static, Answer>;

/// Hands the transaction in; the answer comes later.
fn begin(sequencer: &Sequencer, operations: Vec<Op>) -> Commit {
    let mut commit: Commit = Box::pin(sequencer.commit(operations));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::future::Future::poll(commit.as_mut(), &mut context) {
        Poll::Pending => commit,
        Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
    }
}

fn finish(commit: Commit) -> Result<Revision, Error> {
    futures::executor::block_on(commit).map(|answers| answers[0].as_ref().unwrap().revision)
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Revision>>>);

impl Sink for Seen {
    fn apply(&mut self, changes: &[Arc<Change>], _revision: Revision) {
        self.0
            .lock()
            .unwrap()
            .extend(changes.iter().map(|change| change.revision()));
    }

    fn closed(&mut self) {}
}

#[test]
fn heartbeat_does_not_wait_for_a_stalled_disk_and_order_is_kept() {
    let (sequencer, disk) = sequencer();
    let seen = Seen::default();
    sequencer.watch(0, Box::new(seen.clone())).unwrap();
    let durable = begin(&sequencer, put("d/a", "1"));
    assert_eq!(disk.begun.recv(), Ok(1));
    let beats: Vec<_> = (0..10)
        .map(|number| finish(begin(&sequencer, put("m/a", &number.to_string()))).unwrap())
        .collect();
    assert_eq!(*seen.0.lock().unwrap(), beats);
    disk.outcome.send(Ok(())).unwrap();
    let written = finish(durable).unwrap();
    assert!(written > beats[9]);
    let after = finish(begin(&sequencer, put("m/a", "after"))).unwrap();
    assert!(after > written);
    let seen = seen.0.lock().unwrap().clone();
    assert!(seen.is_sorted());
    assert_eq!(seen.len(), 12);
}

#[test]
fn heartbeats_wait_once_the_room_before_the_batch_is_used_up() {
    let (sequencer, disk) = sequencer();
    let durable = begin(&sequencer, put("d/a", "1"));
    assert_eq!(disk.begun.recv(), Ok(1));
    for number in 0..ROOM_IN_FLIGHT {
        finish(begin(&sequencer, put("m/a", &number.to_string()))).unwrap();
    }
    let late = begin(&sequencer, put("m/a", "late"));
    disk.outcome.send(Ok(())).unwrap();
    assert!(finish(late).unwrap() > finish(durable).unwrap());
}

#[test]
fn those_who_wait_share_one_write() {
    let (sequencer, disk) = sequencer();
    let first = begin(&sequencer, put("d/first", "1"));
    assert_eq!(disk.begun.recv(), Ok(1));
    let waiting: Vec<_> = (0..20)
        .map(|number| begin(&sequencer, put(&format!("d/{number}"), "1")))
        .collect();
    disk.outcome.send(Ok(())).unwrap();
    assert_eq!(disk.begun.recv(), Ok(20));
    disk.outcome.send(Ok(())).unwrap();
    let first = finish(first).unwrap();
    let revisions: Vec<_> = waiting.into_iter().map(|commit| finish(commit).unwrap()).collect();
    assert!(revisions.is_sorted() && revisions[0] > first);
}

#[test]
fn nothing_is_seen_before_it_is_durable_or_after_it_failed() {
    let (sequencer, disk) = sequencer();
    let seen = Seen::default();
    sequencer.watch(0, Box::new(seen.clone())).unwrap();
    let refused = begin(&sequencer, put("d/a", "1"));
    assert_eq!(disk.begun.recv(), Ok(1));
    assert!(sequencer.range("").entries.is_empty());
    disk.outcome.send(Err(false)).unwrap();
    assert!(matches!(finish(refused), Err(Error::DiskFull { .. })));
    assert!(sequencer.range("").entries.is_empty());
    let again = begin(&sequencer, put("d/a", "1"));
    disk.outcome.send(Ok(())).unwrap();
    let revision = finish(again).unwrap();
    assert_eq!(*seen.0.lock().unwrap(), [revision]);
}

#[test]
fn revisions_that_may_be_on_the_disk_are_not_given_out_again_and_a_rewrite_comes_first() {
    let (sequencer, disk) = sequencer();
    let lost = begin(&sequencer, put("d/a", "1"));
    assert_eq!(disk.begun.recv(), Ok(1));
    disk.outcome.send(Err(true)).unwrap();
    finish(lost).unwrap_err();
    let beat = finish(begin(&sequencer, put("m/a", "1"))).unwrap();
    assert!(beat > ROOM_IN_FLIGHT + 1);
    let refused = begin(&sequencer, put("d/a", "2"));
    disk.rewrites.send(Err(())).unwrap();
    assert!(matches!(finish(refused), Err(Error::DiskFull { .. })));
    let written = begin(&sequencer, put("d/a", "3"));
    disk.rewrites.send(Ok(())).unwrap();
    disk.outcome.send(Ok(())).unwrap();
    assert!(finish(written).unwrap() > beat);
}

#[test]
fn close_finishes_what_was_begun() {
    let (sequencer, disk) = sequencer();
    let commit = begin(&sequencer, put("d/a", "1"));
    let close = sequencer.close();
    disk.outcome.send(Ok(())).unwrap();
    finish(commit).unwrap();
    futures::executor::block_on(close);
    assert!(matches!(finish(begin(&sequencer, put("m/a", "1"))), Err(Error::Closed)));
}
