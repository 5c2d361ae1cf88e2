//! What the store promises to the rest of the program.

use std::{collections::BTreeMap, time::Duration};

use minidc_store::{Change, Error, HistoryLimits, MemoryPrefix, Options, Store, When};
use tempfile::TempDir;

use crate::support::{Random, delete, envelope, put, replay, soon};

fn leases() -> Options {
    Options {
        memory_prefixes: vec!["coordination.k8s.io/leases/".into()],
        ..Options::default()
    }
}

#[tokio::test]
async fn resource_version_is_spliced_into_the_metadata() {
    let store = Store::in_memory(Options::default());
    let entry = store
        .commit(vec![put("k/a", "1", When::Absent)])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    let json = entry.json();
    assert_eq!(
        &json[..],
        br#"{"metadata":{"resourceVersion":"1","name":"x"},"data":"1"}"#
    );
    let empty = minidc_store::Envelope::new(r#"{"metadata":{}}"#, 13, Box::default(), Box::default());
    assert_eq!(&empty.spliced(7)[..], br#"{"metadata":{"resourceVersion":"7"}}"#);
}

#[tokio::test]
async fn commit_is_visible_when_it_returns() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    for number in 0..50 {
        let key = format!("k/{number}");
        let entry = store
            .commit(vec![put(&key, "1", When::Absent)])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        assert_eq!(store.get(&key), Some(entry.clone()));
        assert!(store.revision() >= entry.revision);
    }
    assert_eq!(store.list("k/").0.len(), 50);
}

#[tokio::test]
async fn pages_together_are_the_list() {
    let store = Store::in_memory(Options::default());
    for number in 0..25 {
        store
            .commit(vec![put(&format!("k/{number:02}"), "1", When::Absent)])
            .await
            .unwrap();
    }
    store.commit(vec![put("l/1", "1", When::Absent)]).await.unwrap();
    let mut keys = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let (page, remaining, revision) = store.page("k/", after.as_deref(), 10);
        assert_eq!(revision, store.revision());
        keys.extend(page.iter().map(|entry| entry.key.to_string()));
        assert_eq!(remaining, 25 - keys.len());
        if remaining == 0 {
            break;
        }
        after = keys.last().cloned();
    }
    let listed: Vec<_> = store.list("k/").0.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(keys, listed);
}

#[tokio::test]
async fn watch_sees_its_prefix_only_and_each_change_once() {
    let store = Store::in_memory(leases());
    let mut everything = store.watch("", 0).unwrap();
    let mut pods = store.watch("core/pods/", 0).unwrap();
    let mut namespace = store.watch("core/pods/default/", 0).unwrap();
    let mut part = store.watch("core/pods/default/we", 0).unwrap();
    let keys = [
        "core/pods/default/web",
        "core/pods/other/web",
        "core/podsets/default/web",
        "coordination.k8s.io/leases/kube-node-lease/pi-1",
        "core/pods/default/db",
    ];
    for key in keys {
        store.commit(vec![put(key, "1", When::Absent)]).await.unwrap();
    }
    store.commit(vec![delete(keys[0], When::Present)]).await.unwrap();
    let seen = |watch: &mut minidc_store::Watch| {
        let mut revisions = Vec::new();
        while let Some(change) = watch.try_next().unwrap() {
            revisions.push(change.revision());
        }
        assert_eq!(watch.progress(), 6);
        revisions
    };
    assert_eq!(seen(&mut everything), [1, 2, 3, 4, 5, 6]);
    assert_eq!(seen(&mut pods), [1, 2, 5, 6]);
    assert_eq!(seen(&mut namespace), [1, 5, 6]);
    assert_eq!(seen(&mut part), [1, 6]);
}

#[tokio::test]
async fn list_and_watch_together_miss_nothing_under_load() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), leases()).await.unwrap();
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut random = Random(writer);
                for _ in 0..150 {
                    let prefix = if writer == 0 { "coordination.k8s.io/leases" } else { "k" };
                    let key = format!("{prefix}/{}", random.below(10));
                    let operation = match random.below(4) {
                        0 => delete(&key, When::Always),
                        _ => put(&key, &random.0.to_string(), When::Always),
                    };
                    store.commit(vec![operation]).await.unwrap();
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let (entries, revision) = store.list("");
                let mut state: BTreeMap<_, _> = entries
                    .into_iter()
                    .map(|entry| (entry.key.to_string(), entry))
                    .collect();
                let mut watch = store.watch("", revision).unwrap();
                loop {
                    let change = watch.next().await.unwrap();
                    let last = matches!(&*change, Change::Put { entry, .. } if &*entry.key == "end");
                    replay(&mut state, [&*change]);
                    if last {
                        return state;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        soon(writer).await.unwrap();
    }
    store.commit(vec![put("end", "1", When::Absent)]).await.unwrap();
    let (entries, _) = store.list("");
    for reader in readers {
        let state = soon(reader).await.unwrap();
        assert!(state.values().eq(&entries));
    }
}

#[tokio::test]
async fn slow_watcher_is_told_and_a_quiet_one_is_not_disturbed() {
    let store = Store::in_memory(Options {
        history: HistoryLimits::entries(10),
        ..Options::default()
    });
    let mut slow = store.watch("k/", 0).unwrap();
    let mut quiet = store.watch("quiet/", 0).unwrap();
    for number in 0..30 {
        store
            .commit(vec![put("k/a", &number.to_string(), When::Always)])
            .await
            .unwrap();
    }
    assert!(matches!(slow.next().await, Err(Error::Lagged { prefix }) if prefix == "k/"));
    store.commit(vec![put("quiet/a", "1", When::Always)]).await.unwrap();
    assert_eq!(soon(quiet.next()).await.unwrap().revision(), 31);
    assert!(matches!(store.watch("k/", 20), Err(Error::Compacted { oldest: 21 })));
    assert!(store.watch("k/", 21).is_ok());
}

#[tokio::test]
async fn heartbeats_do_not_push_out_the_history_of_pods() {
    let mut options = leases();
    options.memory_history = HistoryLimits::entries(5);
    let store = Store::in_memory(options);
    store
        .commit(vec![put("core/pods/default/web", "1", When::Always)])
        .await
        .unwrap();
    for number in 0..100 {
        let key = "coordination.k8s.io/leases/kube-node-lease/pi-1";
        store
            .commit(vec![put(key, &number.to_string(), When::Always)])
            .await
            .unwrap();
    }
    let mut watch = store.watch("core/pods/", 0).unwrap();
    assert_eq!(watch.try_next().unwrap().unwrap().revision(), 1);
    assert_eq!(watch.progress(), 101);
    assert!(matches!(
        store.watch("coordination.k8s.io/leases/", 0),
        Err(Error::Compacted { .. })
    ));
    assert!(matches!(store.watch("", 0), Err(Error::Compacted { .. })));
}

#[tokio::test]
async fn hundreds_of_watchers_each_get_their_changes() {
    let store = Store::in_memory(Options::default());
    let watchers: Vec<_> = (0..300)
        .map(|number| {
            let mut watch = store.watch(&format!("core/pods/ns-{}/", number % 30), 0).unwrap();
            tokio::spawn(async move {
                let mut count = 0;
                while watch.next().await.is_ok() {
                    count += 1;
                }
                count
            })
        })
        .collect();
    for number in 0..600 {
        store
            .commit(vec![put(
                &format!("core/pods/ns-{}/a", number % 30),
                &number.to_string(),
                When::Always,
            )])
            .await
            .unwrap();
    }
    store.close().await;
    for watcher in watchers {
        assert_eq!(soon(watcher).await.unwrap(), 20);
    }
}

#[tokio::test]
async fn watchers_learn_of_the_close_after_the_last_change() {
    let store = Store::in_memory(Options::default());
    let mut watch = store.watch("", 0).unwrap();
    store.commit(vec![put("k/a", "1", When::Always)]).await.unwrap();
    let reader = store.clone();
    store.close().await;
    assert_eq!(watch.next().await.unwrap().revision(), 1);
    assert!(matches!(soon(watch.next()).await, Err(Error::Closed)));
    assert!(matches!(
        reader.commit(vec![put("k/b", "1", When::Always)]).await,
        Err(Error::Closed)
    ));
    assert!(reader.get("k/a").is_some());
}

#[tokio::test]
async fn everything_durable_is_there_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let mut identity = None;
    let mut expected = Vec::new();
    let mut random = Random(1);
    for round in 0..6 {
        let options = Options {
            compact_bytes: 20_000,
            compact_factor: 2,
            ..Options::default()
        };
        let store = Store::open(directory.path(), options).await.unwrap();
        assert_eq!(*identity.get_or_insert(store.identity()), store.identity());
        assert_eq!(store.list("").0, expected, "round {round}");
        for _ in 0..100 {
            let key = format!("k/{}", random.below(20));
            let text: String = (0..random.below(500))
                .map(|_| char::from(b'a' + random.below(26) as u8))
                .collect();
            let operation = match random.below(5) {
                0 => delete(&key, When::Always),
                _ => put(&key, &text, When::Always),
            };
            store.commit(vec![operation]).await.unwrap();
        }
        expected = store.list("").0;
        if round == 5 {
            assert!(store.statistics().log_bytes < 100_000);
        }
        store.close().await;
    }
}

#[tokio::test]
async fn watch_goes_on_across_a_restart() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), leases()).await.unwrap();
    let mut revisions = Vec::new();
    for number in 0..5 {
        let done = store
            .commit(vec![put("k/a", &number.to_string(), When::Always)])
            .await
            .unwrap();
        revisions.push(done[0].as_ref().unwrap().revision);
    }
    let lease = "coordination.k8s.io/leases/kube-node-lease/pi-1";
    let beat = store.commit(vec![put(lease, "1", When::Always)]).await.unwrap()[0]
        .clone()
        .unwrap()
        .revision;
    store.close().await;

    let store = Store::open(directory.path(), leases()).await.unwrap();
    let mut watch = store.watch("k/", revisions[1]).unwrap();
    for revision in &revisions[2..] {
        assert_eq!(watch.try_next().unwrap().unwrap().revision(), *revision);
    }
    assert!(watch.try_next().unwrap().is_none());
    assert!(
        store.watch("k/", beat).is_ok(),
        "a revision given out for a heartbeat is good for the durable kinds"
    );
    assert!(matches!(
        store.watch("coordination.k8s.io/leases/", beat),
        Err(Error::Compacted { .. })
    ));
    assert!(store.get(lease).is_none());
    store.compact(revisions[3]).await.unwrap();
    store.close().await;

    let store = Store::open(directory.path(), leases()).await.unwrap();
    assert!(matches!(store.watch("k/", revisions[1]), Err(Error::Compacted { .. })));
}

#[tokio::test]
async fn revisions_grow_across_restarts_and_heartbeats_never_touch_the_disk() {
    let directory = TempDir::new().unwrap();
    let lease = "coordination.k8s.io/leases/kube-node-lease/pi-1";
    let mut last = 0;
    for _ in 0..4 {
        let store = Store::open(directory.path(), leases()).await.unwrap();
        assert!(store.revision() >= last);
        store.commit(vec![put(lease, "first", When::Always)]).await.unwrap();
        let before = store.statistics();
        for number in 0..2000 {
            let done = store
                .commit(vec![put(lease, &number.to_string(), When::Always)])
                .await
                .unwrap();
            let revision = done[0].as_ref().unwrap().revision;
            assert!(revision > last);
            last = revision;
        }
        assert_eq!(store.statistics(), before);
        // No orderly close: what was given out must not be given out again even so.
        drop(store);
        let lock = std::fs::File::open(directory.path().join("lock")).unwrap();
        tokio::task::spawn_blocking(move || lock.lock().unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn second_process_is_refused() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    match Store::open(directory.path(), Options::default()).await {
        Err(error @ Error::Locked { .. }) => assert!(error.to_string().contains("another process"), "{error}"),
        other => panic!("{other:?}"),
    }
    store.close().await;
    Store::open(directory.path(), Options::default()).await.unwrap();
}

#[tokio::test]
async fn events_expire_in_front_of_a_waiting_watcher() {
    let events = MemoryPrefix::new("core/events/")
        .ttl(Duration::from_millis(20))
        .most(1000);
    let store = Store::in_memory(Options {
        memory_prefixes: vec![events],
        ..Options::default()
    });
    let mut watch = store.watch("core/events/", 0).unwrap();
    store
        .commit(vec![put("core/events/default/a", "1", When::Absent)])
        .await
        .unwrap();
    assert!(matches!(&*soon(watch.next()).await.unwrap(), Change::Put { .. }));
    assert!(matches!(
        &*soon(watch.next()).await.unwrap(),
        Change::Delete { revision: 2, .. }
    ));
    assert!(store.get("core/events/default/a").is_none());
}

#[tokio::test]
async fn progress_follows_the_revision() {
    let store = Store::in_memory(Options::default());
    let mut progress = store.progress();
    store.commit(vec![put("k/a", "1", When::Always)]).await.unwrap();
    soon(progress.wait_for(|revision| *revision == 1)).await.unwrap();
}

#[tokio::test]
async fn values_keep_labels_fields_and_version_across_a_restart() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    let mut value = envelope("text");
    value.storage_version = 3;
    let operation = minidc_store::Op::Put {
        key: "k/a".to_owned(),
        envelope: value.clone(),
        when: When::Absent,
    };
    store.commit(vec![operation]).await.unwrap();
    let mut changed = value.clone();
    changed.labels = Box::new([("app".into(), "other".into()), ("tier".into(), String::new().into())]);
    let operation = minidc_store::Op::Put {
        key: "k/a".to_owned(),
        envelope: changed.clone(),
        when: When::Present,
    };
    store.commit(vec![operation]).await.unwrap();
    store.close().await;
    let store = Store::open(directory.path(), Options::default()).await.unwrap();
    let entry = store.get("k/a").unwrap();
    assert_eq!(*entry.envelope, changed);
    assert_eq!(entry.envelope.label("app"), Some("other"));
    assert_eq!(entry.envelope.field("status.phase"), Some("Running"));
    assert_eq!(entry.created + 1, entry.revision);
}
