//! Requests and limits: the class of a pod, and the kernel's words for what its containers get.

use std::collections::BTreeMap;

use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource;
use minidc_api::quantity::Quantity;

/// Length of the window of a CPU quota in microseconds, Kubernetes' and the kernel's default.
const CPU_PERIOD: i64 = 100_000;
/// Least quota in microseconds that the kernel takes.
const LEAST_CPU_QUOTA: i64 = 1_000;
/// CPU shares of one core.
const SHARES_PER_CORE: i64 = 1_024;
/// Least shares the kernel takes.
const LEAST_SHARES: i64 = 2;
/// Most shares the kernel takes.
const MOST_SHARES: i64 = 262_144;
/// Score of guaranteed pods, from Kubernetes' `pkg/kubelet/qos/policy.go`, as are the next two.
const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1_000;

/// Kubernetes' quality-of-service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QosClass {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// As in `status.qosClass`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// As in the path of the cgroup.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Guaranteed => "guaranteed",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }
}

type Amounts = Option<BTreeMap<String, resource::Quantity>>;

/// An amount of a resource; absent when it is not given or unreadable.
pub(crate) fn amount(amounts: Option<&BTreeMap<String, resource::Quantity>>, name: &str) -> Option<Quantity> {
    Quantity::parse(&amounts?.get(name)?.0).ok()
}

fn limits(container: &Container) -> Option<&BTreeMap<String, resource::Quantity>> {
    container
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref())
}

fn requests(container: &Container) -> Option<&BTreeMap<String, resource::Quantity>> {
    container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
}

/// A limit of `container`.
pub(crate) fn limit(container: &Container, name: &str) -> Option<Quantity> {
    amount(limits(container), name)
}

/// A request of `container`, which is the limit when only that is given.
pub(crate) fn request(container: &Container, name: &str) -> Option<Quantity> {
    amount(requests(container), name).or_else(|| limit(container, name))
}

fn milli(quantity: Option<Quantity>) -> i64 {
    quantity
        .and_then(|quantity| i64::try_from(quantity.milli()).ok())
        .unwrap_or(0)
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The class of a pod, by the rules of `pkg/apis/core/v1/helper/qos`.
pub(crate) fn qos_class(spec: &PodSpec) -> QosClass {
    let names = ["cpu", "memory"];
    let positive =
        |amounts: &Amounts, name: &str| amount(amounts.as_ref(), name).filter(|quantity| !quantity.is_zero());
    let mut anything = false;
    let mut guaranteed = true;
    for container in all_containers(spec) {
        let resources = container.resources.clone().unwrap_or_default();
        for name in names {
            let (limit, request) = (positive(&resources.limits, name), positive(&resources.requests, name));
            anything |= limit.is_some() || request.is_some();
            // A request not given counts as the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (anything, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// CPU shares for an amount of CPU in thousandths of a core.
pub(crate) fn cpu_shares(milli: i64) -> i64 {
    (milli.saturating_mul(SHARES_PER_CORE) / 1_000).clamp(LEAST_SHARES, MOST_SHARES)
}

/// CPU quota in microseconds per [`CPU_PERIOD`]; zero is none.
fn cpu_quota(milli: i64) -> i64 {
    if milli == 0 {
        0
    } else {
        (milli.saturating_mul(CPU_PERIOD) / 1_000).max(LEAST_CPU_QUOTA)
    }
}

/// What the kernel is told for one container; `memory_capacity` is the node's, in bytes.
pub(crate) fn container_resources(
    spec: &PodSpec,
    container: &Container,
    memory_capacity: u64,
) -> LinuxContainerResources {
    let milli_limit = milli(limit(container, "cpu"));
    LinuxContainerResources {
        cpu_period: if milli_limit == 0 { 0 } else { CPU_PERIOD },
        cpu_quota: cpu_quota(milli_limit),
        cpu_shares: cpu_shares(milli(request(container, "cpu"))),
        memory_limit_in_bytes: limit(container, "memory").map_or(0, Quantity::units),
        oom_score_adj: oom_score(spec, container, memory_capacity),
        ..Default::default()
    }
}

fn oom_score(spec: &PodSpec, container: &Container, memory_capacity: u64) -> i64 {
    match qos_class(spec) {
        QosClass::Guaranteed => GUARANTEED_SCORE,
        QosClass::BestEffort => BEST_EFFORT_SCORE,
        QosClass::Burstable => {
            let asked = request(container, "memory").map_or(0, Quantity::units);
            let capacity = i64::try_from(memory_capacity).unwrap_or(i64::MAX).max(1);
            let score = 1_000 - asked.saturating_mul(1_000) / capacity;
            // Always above the guaranteed ones and below those of best effort.
            score.clamp(1_000 + GUARANTEED_SCORE, BEST_EFFORT_SCORE - 1)
        }
    }
}

/// What a whole pod gets from the kernel, set on the cgroup above its containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodResources {
    /// CPU shares: without them, requests would count only among the containers of one pod.
    pub(crate) shares: i64,
    /// CPU quota in microseconds per [`PodResources::period`], when every container has a limit.
    pub(crate) quota: Option<i64>,
    /// Window of the quota in microseconds.
    pub(crate) period: i64,
    /// Memory limit in bytes, when every container has one.
    pub(crate) memory: Option<i64>,
}

/// The sum of the containers, or the largest init container where that is more.
pub(crate) fn pod_resources(spec: &PodSpec) -> PodResources {
    let most = |of: &dyn Fn(&Container) -> Option<i64>| -> Option<i64> {
        let sum = spec.containers.iter().map(of).sum::<Option<i64>>()?;
        let first = spec
            .init_containers
            .iter()
            .flatten()
            .map(of)
            .collect::<Option<Vec<_>>>()?;
        Some(first.into_iter().fold(sum, i64::max))
    };
    let requested = most(&|container| Some(milli(request(container, "cpu")))).unwrap_or(0);
    let quota = most(&|container| {
        limit(container, "cpu")
            .map(|cpu| milli(Some(cpu)))
            .filter(|milli| *milli > 0)
    })
    .map(cpu_quota);
    let memory = most(&|container| {
        limit(container, "memory")
            .map(Quantity::units)
            .filter(|bytes| *bytes > 0)
    });
    PodResources {
        shares: cpu_shares(requested),
        quota,
        period: CPU_PERIOD,
        memory,
    }
}

/// CPU requested by a pod in thousandths of a core.
pub(crate) fn requested_cpu(pod: &Pod) -> i64 {
    pod.spec.as_ref().map_or(0, |spec| {
        spec.containers
            .iter()
            .map(|container| milli(request(container, "cpu")))
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(resources: &[serde_json::Value]) -> PodSpec {
        let containers: Vec<_> = resources
            .iter()
            .enumerate()
            .map(|(i, r)| json!({"name": format!("c{i}"), "resources": r}))
            .collect();
        serde_json::from_value(json!({ "containers": containers })).unwrap()
    }

    #[test]
    fn class_follows_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "1000m", "memory": "64Mi"}});
        assert_eq!(qos_class(&spec(&[json!({})])), QosClass::BestEffort);
        assert_eq!(qos_class(&spec(std::slice::from_ref(&full))), QosClass::Guaranteed);
        assert_eq!(
            qos_class(&spec(&[json!({"limits": {"cpu": "1", "memory": "64Mi"}})])),
            QosClass::Guaranteed
        );
        assert_eq!(qos_class(&spec(&[full, json!({})])), QosClass::Burstable);
        assert_eq!(
            qos_class(&spec(&[json!({"requests": {"cpu": "1m"}})])),
            QosClass::Burstable
        );
        assert_eq!(
            qos_class(&spec(&[json!({"requests": {"cpu": "0"}})])),
            QosClass::BestEffort
        );
    }

    #[test]
    fn container_gets_shares_quota_and_memory() {
        let spec = spec(&[json!({"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m"}})]);
        let got = container_resources(&spec, &spec.containers[0], 1 << 30);
        assert_eq!((got.cpu_shares, got.cpu_quota, got.cpu_period), (102, 25_000, 100_000));
        assert_eq!(got.memory_limit_in_bytes, 64 << 20);
        assert_eq!(got.oom_score_adj, 1_000 - 62);
    }

    #[test]
    fn container_without_wishes_gets_least_shares_and_no_quota() {
        let spec = spec(&[json!({})]);
        let got = container_resources(&spec, &spec.containers[0], 1 << 30);
        assert_eq!(
            (
                got.cpu_shares,
                got.cpu_quota,
                got.memory_limit_in_bytes,
                got.oom_score_adj
            ),
            (2, 0, 0, 1_000)
        );
    }

    #[test]
    fn pod_is_limited_only_when_all_its_containers_are() {
        let limited = json!({"limits": {"cpu": "500m", "memory": "10Mi"}});
        let got = pod_resources(&spec(&[limited.clone(), limited.clone()]));
        assert_eq!(
            (got.shares, got.quota, got.memory),
            (1_024, Some(100_000), Some(20 << 20))
        );
        let got = pod_resources(&spec(&[limited, json!({})]));
        assert_eq!((got.shares, got.quota, got.memory), (512, None, None));
    }
}
