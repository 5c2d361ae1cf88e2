use std::sync::Mutex;

use kube::runtime::watcher::Event;
use serde_json::json;

use super::*;
use crate::objects::PODS;
use crate::objects::pod::Pod;

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
