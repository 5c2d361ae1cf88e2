use std::sync::Mutex;

use kube::runtime::watcher::Event;
use serde_json::json;

use super::*;
use crate::objects::pod::Pod;
use crate::objects::{Key, PODS};

type PodWire = <Pod as Stored>::Wire;

fn wire(name: &str, uid: &str, revision: u64) -> PodWire {
    let metadata = json!({"name": name, "namespace": "default", "uid": uid, "resourceVersion": revision.to_string()});
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn cache() -> (Arc<Cache<Pod>>, Told) {
    let cache: Arc<Cache<Pod>> = Cache::new(PODS);
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    cache.on_change(move |change| {
        let text = match change {
            Change::Put {
                previous: None,
                current,
            } => format!("new {}", current.metadata.uid),
            Change::Put { current, .. } => format!("changed {}", current.metadata.uid),
            Change::Gone(object) => format!("gone {}", object.metadata.uid),
        };
        sink.lock().unwrap().push(text);
    });
    (cache, Told(told))
}

fn list(cache: &Cache<Pod>, items: Vec<PodWire>) {
    let mut listed = None;
    cache.apply(Event::Init, &mut listed);
    for item in items {
        cache.apply(Event::InitApply(item), &mut listed);
    }
    cache.apply(Event::InitDone, &mut listed);
}

#[test]
fn changes_are_told_once_each() {
    let (cache, told) = cache();
    assert!(!cache.is_complete());
    list(&cache, vec![wire("a", "1", 5), wire("b", "2", 6)]);
    assert!(cache.is_complete());
    assert_eq!(told.take(), ["new 1", "new 2"]);
    cache.apply(Event::Apply(wire("a", "1", 7)), &mut None);
    cache.apply(Event::Delete(wire("b", "2", 8)), &mut None);
    assert_eq!(told.take(), ["changed 1", "gone 2"]);
    // A second list tells of what was missed, and of nothing else.
    list(&cache, vec![wire("a", "3", 11), wire("c", "4", 12)]);
    assert_eq!(told.take(), ["gone 1", "new 3", "new 4"]);
    list(&cache, vec![wire("c", "4", 12)]);
    assert_eq!(told.take(), ["gone 3"]);
    assert_eq!(cache.all(|_| true).len(), 1);
}

#[test]
fn an_own_write_is_seen_by_its_event_or_by_a_later_list() {
    let (cache, _) = cache();
    list(&cache, vec![wire("a", "1", 5)]);
    let mark = cache.mark(9);
    assert!(!cache.has_seen(mark));
    cache.apply(Event::Apply(wire("a", "1", 8)), &mut None);
    assert!(!cache.has_seen(mark));
    cache.apply(Event::Delete(wire("b", "2", 9)), &mut None);
    assert!(cache.has_seen(mark));

    // What was written is gone again before the list: nothing in it is as new, yet it includes the write.
    let mut listed = None;
    cache.apply(Event::Init, &mut listed);
    let during = cache.mark(20);
    cache.apply(Event::InitDone, &mut listed);
    assert!(!cache.has_seen(during), "that list may have been made before the write");
    list(&cache, Vec::new());
    assert!(cache.has_seen(during));
}

#[test]
fn objects_are_found_within_their_namespace() {
    let (cache, _) = cache();
    let mut other = wire("x", "9", 1);
    other.metadata.namespace = Some("default-2".into());
    list(&cache, vec![wire("a", "1", 5), other, wire("z", "2", 6)]);
    let names: Vec<String> = cache
        .within("default", |_| true)
        .iter()
        .map(|pod| pod.metadata.key.name.to_string())
        .collect();
    assert_eq!(names, ["a", "z"]);
    assert!(cache.get(&Key::new("default-2", "x")).is_some());
}

#[test]
fn members_of_a_group_are_found_as_they_come_change_and_go() {
    let cache: Arc<Cache<Pod>> = Cache::grouped(PODS, |pod| {
        let group = pod.metadata.label("group")?;
        Some(Key::new(&pod.metadata.key.namespace, group))
    });
    let member = |name: &str, revision: u64, group: &str| -> PodWire {
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "default", "uid": name, "resourceVersion": revision.to_string(), "labels": {"group": group},
        }}))
        .unwrap()
    };
    let members = |group: &str| -> Vec<String> {
        let found = cache.group(&Key::new("default", group));
        found.iter().map(|pod| pod.metadata.key.name.to_string()).collect()
    };
    list(
        &cache,
        vec![member("a", 1, "x"), member("b", 2, "x"), member("c", 3, "y")],
    );
    assert_eq!(
        (members("x"), members("y")),
        (vec!["a".into(), "b".into()], vec!["c".into()])
    );
    cache.apply(Event::Apply(member("a", 4, "y")), &mut None);
    cache.apply(Event::Delete(member("c", 5, "y")), &mut None);
    assert_eq!((members("x"), members("y")), (vec!["b".into()], vec!["a".into()]));
    // What a new list does not have any more is nobody's either.
    list(&cache, vec![member("b", 2, "x")]);
    assert_eq!((members("x"), members("y")), (vec!["b".into()], Vec::<String>::new()));
    assert_eq!(cache.read().groups.len(), 1);
}
