//! What the node and its containers use, read each second straight from the kernel.
//!
//! Cost counts here: files stay open between readings, and what changes slowly is read seldom.

mod meter;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minidc_api::metrics::{ContainerSample, NodeSample, PodSample};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::context::Registry;
use crate::observed::State;
use crate::sandbox;

use meter::Meter;
pub(crate) use system::{Capacity, System};

/// How often a reading is made: heartbeats go up each second.
const PERIOD: Duration = Duration::from_secs(1);

/// Reads for as long as the kubelet runs.
pub(crate) struct Stats {
    registry: Registry,
    cgroups: Cgroups,
    system: System,
    sender: watch::Sender<Arc<NodeSample>>,
    pods: Vec<Pod>,
    /// The reading before: when, and the CPU time of the node in nanoseconds.
    last: Option<(Instant, u64)>,
    network: Option<(u64, u64)>,
}

struct Pod {
    namespace: String,
    name: String,
    containers: Vec<(String, Meter)>,
}

impl Stats {
    pub(crate) fn new(
        registry: Registry,
        cgroups: Cgroups,
        data: PathBuf,
        sender: watch::Sender<Arc<NodeSample>>,
    ) -> Self {
        let system = System::new(cgroups.clone(), data);
        Self {
            registry,
            cgroups,
            system,
            sender,
            pods: Vec::new(),
            last: None,
            network: None,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.registry.changes();
        changes.mark_changed();
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            if changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                self.follow_pods();
            }
            let sample = self.sample();
            self.sender.send_replace(Arc::new(sample));
        }
    }

    /// Opens what is new and closes what has gone.
    fn follow_pods(&mut self) {
        let mut known: BTreeMap<String, Meter> = BTreeMap::new();
        for pod in self.pods.drain(..) {
            known.extend(
                pod.containers
                    .into_iter()
                    .map(|(_, meter)| (meter.id().to_owned(), meter)),
            );
        }
        for (identity, seen) in self.registry.all() {
            let Some(spec) = &seen.pod.spec else { continue };
            let parent = sandbox::cgroup_parent(&identity, spec);
            let mut containers = Vec::new();
            for container in seen
                .observed
                .containers
                .iter()
                .filter(|container| container.state == State::Running)
            {
                let meter = known
                    .remove(&container.id)
                    .unwrap_or_else(|| Meter::new(&self.cgroups, &container.id, &format!("{parent}/{}", container.id)));
                containers.push((container.name.clone(), meter));
            }
            if !containers.is_empty() {
                containers.sort_by(|(one, _), (other, _)| one.cmp(other));
                self.pods.push(Pod {
                    namespace: identity.namespace,
                    name: identity.name,
                    containers,
                });
            }
        }
    }

    fn sample(&mut self) -> NodeSample {
        let now = Instant::now();
        let reading = self.system.read();
        let window = self.last.map(|(then, _)| now.duration_since(then)).unwrap_or_default();
        let per_second = |now: u64, then: Option<u64>| rate(now, then, window);
        let last_cpu = self.last.map(|(_, cpu)| cpu);
        let sample = NodeSample {
            window_ms: u32::try_from(window.as_millis()).unwrap_or(u32::MAX),
            cpu_nanocores: per_second(reading.cpu_nanoseconds, last_cpu),
            memory_bytes: reading.memory_bytes,
            memory_available_bytes: reading.memory_available_bytes,
            disk_used_bytes: reading.disk_used_bytes,
            disk_size_bytes: reading.disk_size_bytes,
            network_received_per_second: per_second(reading.received_bytes, self.network.map(|(received, _)| received)),
            network_sent_per_second: per_second(reading.sent_bytes, self.network.map(|(_, sent)| sent)),
            temperature_millicelsius: reading.temperature_millicelsius,
            load_hundredths: reading.load_hundredths,
            pods: self.pods.iter_mut().filter_map(|pod| pod.sample(now)).collect(),
        };
        self.last = Some((now, reading.cpu_nanoseconds));
        self.network = Some((reading.received_bytes, reading.sent_bytes));
        sample
    }
}

impl Pod {
    fn sample(&mut self, now: Instant) -> Option<PodSample> {
        let containers: Vec<_> = self
            .containers
            .iter_mut()
            .filter_map(|(name, meter)| {
                let (cpu_nanocores, memory_bytes) = meter.read(now)?;
                Some(ContainerSample {
                    name: name.clone(),
                    cpu_nanocores,
                    memory_bytes,
                })
            })
            .collect();
        (!containers.is_empty()).then(|| PodSample {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            containers,
        })
    }
}

/// Units per second; zero for a first reading and for a counter that went back.
fn rate(now: u64, then: Option<u64>, window: Duration) -> u64 {
    let grown = then.map_or(0, |then| now.saturating_sub(then));
    let rate = (u128::from(grown) * 1_000_000_000).checked_div(window.as_nanos());
    u64::try_from(rate.unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_of_the_window() {
        assert_eq!(rate(1_500, Some(500), Duration::from_millis(500)), 2_000);
        assert_eq!(rate(5, Some(10), Duration::from_secs(1)), 0);
        assert_eq!(rate(5, None, Duration::from_secs(1)), 0);
        assert_eq!(rate(5, Some(1), Duration::ZERO), 0);
    }

    #[test]
    fn node_is_read_from_this_machine() {
        let (sender, receiver) = watch::channel(Arc::default());
        let mut stats = Stats::new(Registry::default(), Cgroups::detect(), std::env::temp_dir(), sender);
        stats.sample();
        let sample = stats.sample();
        assert!(
            sample.memory_bytes > 0 && sample.memory_available_bytes > 0,
            "{sample:?}"
        );
        assert!(
            sample.disk_size_bytes >= sample.disk_used_bytes && sample.disk_size_bytes > 0,
            "{sample:?}"
        );
        drop(receiver);
    }
}
