//! minidc's service proxy, run as the agent runs it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use minidc_net::{
    facts::{Endpoint, Fact, Key, Protocol, Service, ServicePort, Slice, SlicePort},
    services::{Config, Proxy},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Figures,
    node::{ENDPOINTS, Node, PORT, cluster_ip, elsewhere},
};

/// Changes that the quantiles are taken from.
const CHANGES: usize = 400;

pub(crate) fn measure(node: &Node, services: usize) -> Result<Figures> {
    let mut figures = Figures::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let before = memory()?;
    let (_own, own) = watch::channel(Some("100.64.0.0/24".parse()?));
    let proxy = Proxy::new(Config {
        node: "pi-1".into(),
        pod_range: "100.64.0.0/16".parse()?,
        service_range: "100.65.0.0/16".parse()?,
        own,
        dns: Ipv4Addr::new(100, 65, 0, 10),
    });
    let mut state = proxy.state();
    let (facts, receiver) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let task = runtime.spawn(proxy.run(receiver, shutdown.clone()));

    let measured = services / 2;
    let began = Instant::now();
    for number in 0..services {
        let endpoints = if number == measured {
            vec![ENDPOINTS[0]]
        } else {
            elsewhere(number).to_vec()
        };
        facts.send(Fact::Service(key(number), Some(Arc::new(service(number)))))?;
        facts.send(Fact::Slice(key(number), Some(Arc::new(slice(number, &endpoints)))))?;
    }
    facts.send(Fact::Synced)?;
    runtime.block_on(state.wait_for(|state| state.ready))?;
    figures.load = began.elapsed().as_secs_f64() * 1e3;
    figures.memory = Some(memory()? - before);

    figures.change = node.changes(cluster_ip(measured), CHANGES, |number| {
        let to = ENDPOINTS[(number + 1) % 2];
        let slice = slice(measured, &[to]);
        facts.send(Fact::Slice(key(measured), Some(Arc::new(slice))))?;
        Ok(to)
    })?;
    node.connections(cluster_ip(measured), &mut figures)?;
    shutdown.cancel();
    runtime.block_on(task)??;
    Ok(figures)
}

fn key(number: usize) -> Arc<Key> {
    Arc::new(Key {
        namespace: "default".into(),
        name: format!("service-{number}").into(),
    })
}

fn service(number: usize) -> Service {
    Service {
        cluster_ips: vec![IpAddr::V4(cluster_ip(number))],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        ..Service::default()
    }
}

fn slice(number: usize, endpoints: &[Ipv4Addr]) -> Slice {
    let endpoint = |address: &Ipv4Addr| Endpoint {
        address: IpAddr::V4(*address),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some("pi-2".into()),
        pod: Some(format!("service-{number}-{address}").into()),
    };
    Slice {
        service: Some(format!("service-{number}").into()),
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: PORT,
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

/// Resident memory of this process in MiB.
fn memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kibibytes = line.split_whitespace().nth(1).context("no figure")?;
    Ok(kibibytes.parse::<f64>()? / 1024.0)
}
