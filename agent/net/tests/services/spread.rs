//! Whether each endpoint gets its share.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::node::{Node, command, service};

/// Connections per trial, as the promise says.
const CONNECTIONS: usize = 30_000;

/// The 99 % point of the chi-square distribution with this many degrees of freedom (Wilson and Hilferty's approximation,
/// good to a thousandth here).
fn critical(degrees: f64) -> f64 {
    const NORMAL_99: f64 = 2.326_348;
    let part = 2.0 / (9.0 * degrees);
    degrees * (1.0 - part + NORMAL_99 * part.sqrt()).powi(3)
}

pub(crate) fn connections_are_spread_evenly(node: &mut Node) -> Result<()> {
    let (client, _) = node.pod()?;
    let (server, _) = node.pod()?;
    // One pod stands for all endpoints; one client is not enough for so many connections in so short a time.
    let addresses: Vec<String> = (100..150).map(|number| format!("100.64.0.{number}")).collect();
    for address in &addresses {
        command(&format!("ip -n pod-3 address add {address}/24 dev eth0"))?;
    }
    server.listen("0.0.0.0", 9090)?;
    let sources: Vec<Ipv4Addr> = (10..20).map(|number| Ipv4Addr::new(100, 64, 0, number)).collect();
    for source in &sources {
        command(&format!("ip -n pod-2 address add {source}/24 dev eth0"))?;
    }
    node.start()?;
    for (number, count) in [3, 10, 50].into_iter().enumerate() {
        let name = format!("of-{count}");
        node.service(&name, service(&format!("100.65.0.{}", 100 + number)));
        let endpoints: Vec<&str> = addresses.iter().take(count).map(String::as_str).collect();
        node.endpoints_at(&name, &endpoints, 9090);
    }
    node.synced()?;
    for (number, count) in [3, 10, 50].into_iter().enumerate() {
        let to = format!("100.65.0.{}:80", 100 + number);
        let mut tries = Vec::new();
        // An even spread fails one trial in a hundred, and three in a row one time in a million.
        while tries.len() < 3 {
            let counts = client.connect_often(&sources, &to, CONNECTIONS)?;
            ensure!(counts.len() == count, "{count} endpoints: {counts:?}");
            let expected = CONNECTIONS as f64 / count as f64;
            let deviation = |seen: &usize| (*seen as f64 - expected).powi(2) / expected;
            let chi_square: f64 = counts.values().map(deviation).sum();
            tries.push(chi_square);
            if chi_square < critical(count as f64 - 1.0) {
                break;
            }
        }
        let last = tries.last().copied().unwrap_or(f64::INFINITY);
        ensure!(
            last < critical(count as f64 - 1.0),
            "{count} endpoints: chi-square {tries:?}"
        );
    }
    Ok(())
}
