//! What every backend promises.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use minidc_store::{
    Backend, Change, Embedded, Entry, Error, HistoryLimits, Memory, MemoryPrefix, Op, Options, Revision, Sink, When,
};
use tempfile::TempDir;

use crate::support::{Random, delete, envelope, put, replay, soon};

/// Keeps what a backend's watch delivers.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Arc<Change>>>>);

impl Sink for Recorder {
    fn apply(&mut self, changes: &[Arc<Change>], revision: Revision) {
        assert!(changes.last().is_some_and(|last| last.revision() <= revision));
        self.0.lock().unwrap().extend_from_slice(changes);
    }

    fn closed(&mut self) {}
}

impl Recorder {
    fn changes(&self) -> Vec<Arc<Change>> {
        self.0.lock().unwrap().clone()
    }

    fn watch(backend: &dyn Backend, from: Revision) -> Self {
        let recorder = Self::default();
        backend.watch(from, Box::new(recorder.clone())).unwrap();
        recorder
    }
}

struct Subject {
    backend: Arc<dyn Backend>,
    _directory: Option<TempDir>,
}

fn memory(options: &Options) -> Subject {
    Subject {
        backend: Arc::new(Memory::new(options)),
        _directory: None,
    }
}

fn embedded(options: &Options) -> Subject {
    let directory = TempDir::new().unwrap();
    Subject {
        backend: Arc::new(Embedded::open(directory.path(), options).unwrap()),
        _directory: Some(directory),
    }
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod memory_backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::soon(super::$test(super::memory)).await;
            })*
        }
        mod embedded_backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::soon(super::$test(super::embedded)).await;
            })*
        }
    };
}

suite!(
    creation_and_change_have_revisions_of_their_own,
    condition_that_fails_changes_nothing,
    transaction_is_all_or_nothing,
    later_steps_see_earlier_ones,
    equal_value_changes_nothing,
    removal_answers_with_the_last_state,
    range_is_in_key_order_and_of_one_moment,
    watch_delivers_past_and_coming_changes_once_and_in_order,
    watch_of_forgotten_or_future_changes_is_refused,
    history_is_bounded,
    concurrent_increments_are_all_counted,
    keys_with_a_time_to_live_are_removed_by_a_change,
    surplus_keys_are_removed_oldest_first,
    rewritten_key_counts_as_young,
    mixed_transaction_is_atomic,
    random_histories_agree_with_a_simple_model,
    oversized_transaction_is_refused,
    closed_backend_refuses,
);

type Open = fn(&Options) -> Subject;

async fn one(backend: &dyn Backend, operation: Op) -> Result<Option<Entry>, Error> {
    Ok(backend.commit(vec![operation]).await?.remove(0))
}

async fn creation_and_change_have_revisions_of_their_own(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let first = one(backend, put("a/b//c", "1", When::Absent)).await.unwrap().unwrap();
    let second = one(backend, put("a/b//c", "2", When::Is(first.revision)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.created, first.revision);
    assert!(second.revision > first.revision);
    assert_eq!(second.created, first.revision);
    assert_eq!(backend.range("").unwrap().entries, std::slice::from_ref(&second));
    assert_eq!(backend.range("").unwrap().revision, second.revision);
    assert_eq!(*second.envelope, envelope("2"));
}

async fn condition_that_fails_changes_nothing(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let present = one(backend, put("k/present", "1", When::Always))
        .await
        .unwrap()
        .unwrap();
    let recorder = Recorder::watch(backend, present.revision);
    let wrong = [
        (put("k/present", "2", When::Absent), Some(present.revision)),
        (
            put("k/present", "2", When::Is(present.revision + 1)),
            Some(present.revision),
        ),
        (
            delete("k/present", When::Is(present.revision + 1)),
            Some(present.revision),
        ),
        (delete("k/present", When::Absent), Some(present.revision)),
        (put("k/absent", "2", When::Present), None),
        (put("k/absent", "2", When::Is(present.revision)), None),
        (delete("k/absent", When::Present), None),
    ];
    for (operation, expected) in wrong {
        let wanted = operation.key().to_owned();
        match one(backend, operation).await {
            Err(Error::Conflict { key, current }) => assert_eq!((key, current), (wanted, expected)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(backend.range("").unwrap().entries, [present]);
    assert!(recorder.changes().is_empty());
}

async fn transaction_is_all_or_nothing(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let refused = backend
        .commit(vec![put("k/a", "1", When::Absent), put("k/b", "1", When::Present)])
        .await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    assert!(backend.range("").unwrap().entries.is_empty());
    let done = backend
        .commit(vec![put("k/a", "1", When::Absent), put("k/b", "1", When::Absent)])
        .await
        .unwrap();
    let revisions: Vec<_> = done.iter().flatten().map(|entry| entry.revision).collect();
    assert_eq!(revisions[1], revisions[0] + 1);
}

async fn later_steps_see_earlier_ones(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let recorder = Recorder::watch(backend, 0);
    let steps = vec![
        put("k/a", "1", When::Absent),
        put("k/a", "2", When::Present),
        delete("k/a", When::Present),
        put("k/a", "3", When::Absent),
    ];
    let done = backend.commit(steps).await.unwrap();
    let last = done[3].clone().unwrap();
    assert_eq!(last.created, last.revision);
    assert_eq!(backend.range("").unwrap().entries, [last]);
    let mut state = BTreeMap::new();
    replay(&mut state, recorder.changes().iter().map(|change| &**change));
    assert_eq!(recorder.changes().len(), 4);
}

async fn equal_value_changes_nothing(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let first = one(backend, put("k/a", "1", When::Always)).await.unwrap().unwrap();
    let recorder = Recorder::watch(backend, first.revision);
    let again = one(backend, put("k/a", "1", When::Is(first.revision)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again, first);
    assert!(recorder.changes().is_empty());
    assert_eq!(backend.range("").unwrap().revision, first.revision);
}

async fn removal_answers_with_the_last_state(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let first = one(backend, put("k/a", "1", When::Always)).await.unwrap().unwrap();
    let removed = one(backend, delete("k/a", When::Is(first.revision)))
        .await
        .unwrap()
        .unwrap();
    assert!(removed.revision > first.revision);
    assert_eq!(removed.envelope, first.envelope);
    assert_eq!(one(backend, delete("k/a", When::Always)).await.unwrap(), None);
    let created = one(backend, put("k/a", "1", When::Absent)).await.unwrap().unwrap();
    assert!(created.created > removed.revision);
}

async fn range_is_in_key_order_and_of_one_moment(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    for key in [
        "core/pods/b/1",
        "core/pods/a/2",
        "core/pods/a/1",
        "core/podsets/a/1",
        "apps/x/a/1",
    ] {
        one(backend, put(key, "1", When::Absent)).await.unwrap();
    }
    let range = backend.range("core/pods/").unwrap();
    let keys: Vec<_> = range.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["core/pods/a/1", "core/pods/a/2", "core/pods/b/1"]);
    assert_eq!(backend.range("core/pods/a/1").unwrap().entries.len(), 1);
    assert_eq!(backend.range("").unwrap().entries.len(), 5);
}

async fn watch_delivers_past_and_coming_changes_once_and_in_order(open: Open) {
    let subject = open(&Options {
        memory_prefixes: vec!["m/".into()],
        ..Options::default()
    });
    let backend = &*subject.backend;
    // Revisions before the first one given out need not be known.
    let start = backend.range("").unwrap().revision;
    for number in 0..10 {
        one(backend, put("m/a", &number.to_string(), When::Always))
            .await
            .unwrap();
        one(backend, put("d/a", &number.to_string(), When::Always))
            .await
            .unwrap();
    }
    let middle = backend.range("").unwrap().revision;
    let late = Recorder::watch(backend, middle);
    let early = Recorder::watch(backend, start);
    assert_eq!(early.changes().len(), 20);
    for number in 10..20 {
        one(backend, put("d/a", &number.to_string(), When::Always))
            .await
            .unwrap();
    }
    assert_eq!(late.changes().len(), 10);
    let changes = early.changes();
    assert_eq!(changes.len(), 30);
    assert!(changes.windows(2).all(|pair| pair[0].revision() < pair[1].revision()));
    let mut state = BTreeMap::new();
    replay(&mut state, changes.iter().map(|change| &**change));
    assert!(state.values().eq(&backend.range("").unwrap().entries));
}

async fn watch_of_forgotten_or_future_changes_is_refused(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    let mut revisions = Vec::new();
    for number in 0..5 {
        revisions.push(
            one(backend, put("k/a", &number.to_string(), When::Always))
                .await
                .unwrap()
                .unwrap()
                .revision,
        );
    }
    backend.compact(revisions[2]).await.unwrap();
    let sink = || Box::new(Recorder::default());
    match backend.watch(revisions[1], sink()) {
        Err(Error::Compacted { oldest }) => assert_eq!(oldest, revisions[2]),
        other => panic!("{other:?}"),
    }
    assert_eq!(Recorder::watch(backend, revisions[2]).changes().len(), 2);
    assert!(matches!(
        backend.watch(revisions[4] + 1, sink()),
        Err(Error::Ahead { .. })
    ));
    assert_eq!(backend.range("").unwrap().entries[0].revision, revisions[4]);
}

async fn history_is_bounded(open: Open) {
    let subject = open(&Options {
        history: HistoryLimits::entries(10),
        ..Options::default()
    });
    let backend = &*subject.backend;
    for number in 0..30 {
        one(backend, put("k/a", &number.to_string(), When::Always))
            .await
            .unwrap();
    }
    let current = backend.range("").unwrap().revision;
    assert_eq!(Recorder::watch(backend, current - 10).changes().len(), 10);
    assert!(matches!(
        backend.watch(current - 11, Box::new(Recorder::default())),
        Err(Error::Compacted { .. })
    ));
}

async fn concurrent_increments_are_all_counted(open: Open) {
    let subject = open(&Options {
        memory_prefixes: vec!["m/".into()],
        ..Options::default()
    });
    let mut tasks = tokio::task::JoinSet::new();
    for key in ["d/counter", "m/counter"] {
        for _ in 0..8 {
            let backend = Arc::clone(&subject.backend);
            tasks.spawn(async move {
                let mut done = 0;
                while done < 10 {
                    let current = backend.range(key).unwrap().entries.pop();
                    let (count, when) = match current {
                        Some(entry) => {
                            let json = String::from_utf8_lossy(&entry.envelope.json).into_owned();
                            let count: u64 = json.split('"').nth(9).unwrap().parse().unwrap();
                            (count, When::Is(entry.revision))
                        }
                        None => (0, When::Absent),
                    };
                    match one(&*backend, put(key, &(count + 1).to_string(), when)).await {
                        Ok(_) => done += 1,
                        Err(Error::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for entry in subject.backend.range("").unwrap().entries {
        assert_eq!(*entry.envelope, envelope("80"), "{}", entry.key);
    }
}

async fn keys_with_a_time_to_live_are_removed_by_a_change(open: Open) {
    let ttl = MemoryPrefix::new("m/").ttl(Duration::from_millis(30));
    let subject = open(&Options {
        memory_prefixes: vec![ttl],
        ..Options::default()
    });
    let backend = &*subject.backend;
    one(backend, put("d/a", "1", When::Always)).await.unwrap();
    let start = backend.range("").unwrap().revision;
    let recorder = Recorder::watch(backend, start);
    let before = backend.statistics();
    for key in ["m/a", "m/b"] {
        one(backend, put(key, "1", When::Always)).await.unwrap();
    }
    let expired = async {
        while recorder.changes().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(expired).await;
    let changes = recorder.changes();
    // the first may be gone before the second is written
    let removed: Vec<_> = changes
        .iter()
        .filter_map(|change| match &**change {
            Change::Delete { previous, .. } => Some(&*previous.key),
            Change::Put { .. } => None,
        })
        .collect();
    assert_eq!(removed, ["m/a", "m/b"]);
    assert!(changes.windows(2).all(|pair| pair[0].revision() < pair[1].revision()));
    assert_eq!(backend.range("").unwrap().entries.len(), 1);
    assert_eq!(backend.statistics().bytes_written, before.bytes_written);
}

async fn surplus_keys_are_removed_oldest_first(open: Open) {
    let subject = open(&Options {
        memory_prefixes: vec![MemoryPrefix::new("m/").most(3)],
        ..Options::default()
    });
    let backend = &*subject.backend;
    let recorder = Recorder::watch(backend, backend.range("").unwrap().revision);
    for number in 0..10 {
        one(backend, put(&format!("m/{number}"), "1", When::Always))
            .await
            .unwrap();
        assert!(backend.range("").unwrap().entries.len() <= 3);
    }
    let left: Vec<_> = backend
        .range("")
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.key.to_string())
        .collect();
    assert_eq!(left, ["m/7", "m/8", "m/9"]);
    let mut state = BTreeMap::new();
    replay(&mut state, recorder.changes().iter().map(|change| &**change));
    assert_eq!(state.len(), 3);
}

async fn rewritten_key_counts_as_young(open: Open) {
    let subject = open(&Options {
        memory_prefixes: vec![MemoryPrefix::new("m/").most(2)],
        ..Options::default()
    });
    let backend = &*subject.backend;
    for (key, text) in [("m/a", "1"), ("m/b", "1"), ("m/a", "2"), ("m/c", "1")] {
        one(backend, put(key, text, When::Always)).await.unwrap();
    }
    let left: Vec<_> = backend
        .range("")
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.key.to_string())
        .collect();
    assert_eq!(left, ["m/a", "m/c"]);
}

async fn mixed_transaction_is_atomic(open: Open) {
    let subject = open(&Options {
        memory_prefixes: vec!["m/".into()],
        ..Options::default()
    });
    let backend = &*subject.backend;
    backend
        .commit(vec![put("m/a", "1", When::Absent), put("d/a", "1", When::Absent)])
        .await
        .unwrap();
    let refused = backend
        .commit(vec![put("m/b", "1", When::Absent), put("d/a", "1", When::Absent)])
        .await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    assert_eq!(backend.range("").unwrap().entries.len(), 2);
}

async fn random_histories_agree_with_a_simple_model(open: Open) {
    for seed in 0..12 {
        let subject = open(&Options {
            memory_prefixes: vec!["m/".into()],
            ..Options::default()
        });
        let backend = &*subject.backend;
        let recorder = Recorder::watch(backend, backend.range("").unwrap().revision);
        let mut random = Random(seed);
        let mut model: BTreeMap<String, Entry> = BTreeMap::new();
        for _ in 0..60 {
            let operations: Vec<Op> = (0..=random.below(3)).map(|_| operation(&mut random, &model)).collect();
            let mut expected = model.clone();
            let allowed = operations.iter().all(|operation| apply(&mut expected, operation));
            match backend.commit(operations).await {
                Ok(answers) => {
                    assert!(allowed, "seed {seed}: the model forbids what was done");
                    for answer in answers.into_iter().rev().flatten() {
                        if let Some(entry) = expected.get_mut(&*answer.key)
                            && entry.revision == 0
                            && *entry.envelope == *answer.envelope
                        {
                            let created = if entry.created == 0 {
                                answer.created
                            } else {
                                entry.created
                            };
                            *entry = Entry { created, ..answer };
                        }
                    }
                    model = expected;
                }
                Err(Error::Conflict { .. }) => assert!(!allowed, "seed {seed}: the model allows what was refused"),
                Err(error) => panic!("{error}"),
            }
            assert!(model.values().eq(&backend.range("").unwrap().entries), "seed {seed}");
        }
        let mut state = BTreeMap::new();
        replay(&mut state, recorder.changes().iter().map(|change| &**change));
        assert_eq!(state, model, "seed {seed}");
    }
}

fn operation(random: &mut Random, model: &BTreeMap<String, Entry>) -> Op {
    let key = format!("{}/{}", if random.below(4) == 0 { "m" } else { "d" }, random.below(5));
    let current = model.get(&key).map_or(Revision::MAX, |entry| entry.revision);
    let when = match random.below(8) {
        0 => When::Absent,
        1 => When::Present,
        2 => When::Is(current),
        3 => When::Is(Revision::MAX),
        _ => When::Always,
    };
    if random.below(3) == 0 {
        delete(&key, when)
    } else {
        put(&key, &random.below(4).to_string(), when)
    }
}

/// The model: revision 0 stands for one that is not known yet.
fn apply(model: &mut BTreeMap<String, Entry>, operation: &Op) -> bool {
    let current = model.get(operation.key());
    // A key that the transaction itself has changed has a revision the caller cannot know.
    if !operation.when().holds(current.map(|entry| entry.revision)) {
        return false;
    }
    match operation {
        Op::Put { key, envelope, .. } => {
            let created = current.map_or(0, |entry| entry.created);
            if current.is_none_or(|entry| *entry.envelope != *envelope) {
                let entry = Entry {
                    key: key.as_str().into(),
                    revision: 0,
                    created,
                    envelope: Arc::new(envelope.clone()),
                };
                model.insert(key.clone(), entry);
            }
        }
        Op::Delete { key, .. } => {
            model.remove(key);
        }
    }
    true
}

async fn oversized_transaction_is_refused(open: Open) {
    let subject = open(&Options {
        largest_transaction: 1000,
        ..Options::default()
    });
    let backend = &*subject.backend;
    let refused = one(backend, put("k/large", &"x".repeat(2000), When::Always)).await;
    assert!(matches!(refused, Err(Error::TooLarge { key, .. }) if key == "k/large"));
    one(backend, put("k/small", "x", When::Always)).await.unwrap();
}

async fn closed_backend_refuses(open: Open) {
    let subject = open(&Options::default());
    let backend = &*subject.backend;
    one(backend, put("k/a", "1", When::Always)).await.unwrap();
    backend.close().await;
    assert!(matches!(
        one(backend, put("k/b", "1", When::Always)).await,
        Err(Error::Closed)
    ));
    assert!(matches!(
        backend.watch(0, Box::new(Recorder::default())),
        Err(Error::Closed)
    ));
    backend.close().await;
}
