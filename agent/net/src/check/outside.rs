//! Whether pods reach hosts outside the cluster, as far as the rack is plugged into a network that has any.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{Check, Finding, ask};

/// Where the addresses of the node's resolvers are; the second is the truth behind systemd-resolved's own address.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// As many as the C library asks.
const MOST: usize = 3;
/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(3);

/// Begins the detail of a finding that is no fault: there is nothing outside to be reached.
pub const OFFLINE: &str = "offline: ";

/// The resolvers of this node that a pod could reach too.
pub(super) fn resolvers() -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for file in FILES {
        for address in nameservers(&fs::read_to_string(file).unwrap_or_default()) {
            let address = SocketAddr::from((address, 53));
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found.truncate(MOST);
    found
}

fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    let words = text.lines().map(str::split_whitespace);
    let addresses = words.filter_map(|mut words| match words.next()? {
        "nameserver" => words.next()?.parse::<IpAddr>().ok(),
        _ => None,
    });
    addresses.filter(|address| address.is_ipv4() && !address.is_loopback())
}

/// The first resolver that answers, and after how long; none if none does in time.
pub(super) async fn reach(resolvers: Vec<SocketAddr>) -> Option<(SocketAddr, Duration)> {
    let begin = Instant::now();
    let asked = resolvers.into_iter().map(|resolver| async move {
        let answer = tokio::time::timeout(LIMIT, ask::root(resolver)).await;
        matches!(answer, Ok(Ok(()))).then_some(resolver)
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    while let Some(answer) = asked.next().await {
        if let Some(resolver) = answer {
            return Some((resolver, begin.elapsed()));
        }
    }
    None
}

/// What it means that a pod, and that the node itself, did or did not reach a resolver.
pub(super) fn finding(
    resolvers: &[SocketAddr],
    pod: Option<(SocketAddr, Duration)>,
    node: Option<(SocketAddr, Duration)>,
) -> Finding {
    let (ok, detail) = match (pod, node) {
        (Some((resolver, took)), _) => (
            true,
            format!("{} answered, {:.1} ms", resolver.ip(), took.as_secs_f64() * 1e3),
        ),
        (None, Some((resolver, _))) => (
            false,
            format!(
                "the resolver {} answers this node but not its pods: are they masqueraded, and does a firewall pass them?",
                resolver.ip()
            ),
        ),
        (None, None) if resolvers.is_empty() => (true, format!("{OFFLINE}this node has no resolver outside")),
        (None, None) => {
            let all: Vec<String> = resolvers.iter().map(|resolver| resolver.ip().to_string()).collect();
            (true, format!("{OFFLINE}no answer from {}", all.join(", ")))
        }
    };
    Finding {
        to: String::new(),
        check: Check::Outside,
        ok,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_the_node_itself_are_not_outside() {
        let text = "# a comment\nsearch lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions edns0\nnameserver\n nameserver fd00::1";
        assert_eq!(
            nameservers(text).collect::<Vec<_>>(),
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn only_what_the_node_reaches_and_its_pods_do_not_is_a_fault() {
        let resolver: SocketAddr = "10.0.0.1:53".parse().unwrap();
        let answered = Some((resolver, Duration::from_millis(2)));
        let found = |pod, node| finding(&[resolver], pod, node);
        assert!(found(answered, answered).ok && found(answered, None).ok);
        assert!(!found(None, answered).ok);
        let offline = found(None, None);
        assert!(offline.ok && offline.detail.starts_with(OFFLINE), "{offline:?}");
        assert!(finding(&[], None, None).detail.starts_with(OFFLINE));
    }
}
