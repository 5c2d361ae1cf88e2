use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn failure() -> Error {
    Error::OwnerGone {
        kind: "Test".into(),
        owner: "x".into(),
    }
}

#[tokio::test]
async fn a_key_is_handled_by_one_worker_and_once_more_if_it_was_added_meanwhile() {
    let queue: Arc<Queue<String>> = Queue::new();
    let stop = CancellationToken::new();
    let (running, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for _ in 0..5 {
        queue.add("a".into());
    }
    let work = queue.work(8, &stop, |key| {
        let (queue, stop, running, calls) = (&queue, &stop, &running, &calls);
        async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
            if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                queue.add(key.clone());
                queue.add(key);
            } else {
                stop.cancel();
            }
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(None)
        }
    });
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn failures_come_back_later_and_later_and_success_forgets_them() {
    let queue: Arc<Queue<String>> = Queue::new();
    let stop = CancellationToken::new();
    let times = Mutex::new(Vec::new());
    queue.add("a".into());
    queue
        .work(1, &stop, |_| {
            let (times, stop) = (&times, &stop);
            async move {
                let mut times = times.lock().unwrap();
                times.push(Instant::now());
                match times.len() {
                    1..4 => Err(failure()),
                    4 => Ok(Some(Duration::from_millis(7))),
                    5 => Err(failure()),
                    _ => {
                        stop.cancel();
                        Ok(None)
                    }
                }
            }
        })
        .await;
    let times = times.into_inner().unwrap();
    let pauses: Vec<u128> = times
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_millis())
        .collect();
    for (pause, least) in pauses.iter().zip([5, 10, 20, 7, 5]) {
        assert!(*pause >= least, "{pauses:?}");
    }
    assert_eq!(pauses.len(), 5);
}

#[test]
fn pauses_double_up_to_a_minute() {
    let pauses: Vec<u128> = (0..16).map(|failures| pause_after(failures).as_millis()).collect();
    assert_eq!(pauses[..4], [5, 10, 20, 40]);
    assert!(pauses.is_sorted());
    assert_eq!(pause_after(1000), Duration::from_secs(60));
}

#[tokio::test]
async fn keys_are_handled_side_by_side_up_to_the_number_of_workers() {
    let queue: Arc<Queue<String>> = Queue::new();
    let stop = CancellationToken::new();
    let (running, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    for index in 0..10 {
        queue.add(index.to_string());
    }
    queue
        .work(3, &stop, |_| {
            let (running, most, done, stop) = (&running, &most, &done, &stop);
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                if done.fetch_add(1, Ordering::SeqCst) == 9 {
                    stop.cancel();
                }
                Ok(None)
            }
        })
        .await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}
