//! A resolver outside that asks us for what we ask it, as when a host's own resolver was told to use the cluster's: it is
//! found out and left out, and the question does not go round.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use minidc_net::{
    Range,
    dns::{Config, Dns, Limits, SearchPaths, ServerState, Upstreams, ZoneFiles},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a machine that is not dead.
const LIMIT: Duration = Duration::from_secs(60);

/// Header (number 7, recursion desired, one question), then `a.example` of type A and class IN.
const QUESTION: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
/// SERVFAIL (RFC 1035 section 4.1.1).
const SERVER_FAILURE: u8 = 2;

/// Passes each packet on, and its answer back.
async fn relay(socket: Arc<UdpSocket>, to: SocketAddr, passed: Arc<AtomicUsize>) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        passed.fetch_add(1, Ordering::SeqCst);
        let (socket, packet) = (Arc::clone(&socket), buffer[..length].to_vec());
        tokio::spawn(async move {
            let onward = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            onward.send_to(&packet, to).await?;
            let mut buffer = [0; 4096];
            let length = timeout(LIMIT, onward.recv(&mut buffer)).await??;
            socket.send_to(&buffer[..length], client).await?;
            anyhow::Ok(())
        });
    }
}

#[tokio::test]
async fn a_resolver_that_leads_back_to_us_is_left_out() -> Result<()> {
    let outside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    let dns = Dns::new(Config {
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        domain: "cluster.local".into(),
        node: "here".into(),
        pod_range: Range::around(Ipv4Addr::new(100, 64, 0, 0), 16),
        service_range: Range::around(Ipv4Addr::new(100, 65, 0, 0), 16),
        upstreams: Upstreams::Configured(vec![outside.local_addr()?]),
        keep: None,
        cache_bytes: 1 << 16,
        limits: Limits::default(),
        workers: NonZero::new(1),
    })?;
    let passed = Arc::new(AtomicUsize::new(0));
    let relaying = tokio::spawn(relay(outside, dns.address(), Arc::clone(&passed)));
    let (address, handle) = (dns.address(), dns.handle());
    let (_tell, facts) = mpsc::unbounded_channel();
    let (_files, zones) = watch::channel(Arc::new(ZoneFiles::default()));
    let (_paths, pods) = watch::channel(Arc::new(SearchPaths::default()));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(dns.run(facts, zones, pods, shutdown.clone()));

    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    client.connect(address).await?;
    let mut buffer = [0; 4096];
    let length = timeout(LIMIT, async {
        loop {
            client.send(QUESTION).await?;
            if let Ok(received) = timeout(Duration::from_secs(5), client.recv(&mut buffer)).await {
                return received;
            }
        }
    })
    .await??;
    ensure!(
        length >= 12 && buffer[3] & 0xf == SERVER_FAILURE,
        "{:?}",
        &buffer[..length]
    );
    timeout(LIMIT, async {
        while handle
            .stats()
            .forward
            .servers
            .iter()
            .any(|server| server.state != ServerState::Loop)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    // four attempts, and the questions that look for a loop
    let passed = passed.load(Ordering::SeqCst);
    ensure!(passed < 20, "{passed} packets went round");

    shutdown.cancel();
    running.await??;
    relaying.abort();
    Ok(())
}
