//! The API on plain HTTP at 127.0.0.1, for trying kubectl by hand: `cargo run -p minidc-apiserver --example serve 8080`,
//! then `kubectl --server http://127.0.0.1:8080 get pods`. Everybody is the administrator, nothing is kept, and the
//! nodes only pretend.

#[path = "../tests/api/support.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "a part of the tests is used here")]
mod support;

use std::time::Duration;

use minidc_api::metrics::{ContainerSample, NodeSample, PodSample};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse::<u16>())?;
    let cluster = support::Cluster::start().await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("kubectl --server http://{}", listener.local_addr()?);
    let server = cluster.server.clone();
    // Two nodes that measure themselves each second, and every pod that is bound to them.
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            let (pods, _) = server.store().list("core/pods/");
            for node in ["pi-1", "pi-2"] {
                let mine = pods
                    .iter()
                    .filter(|entry| entry.envelope.field("spec.nodeName") == Some(node));
                let samples = mine.filter_map(|entry| {
                    let mut parts = entry.key.rsplit('/');
                    let (name, namespace) = (parts.next()?.to_owned(), parts.next()?.to_owned());
                    let container = ContainerSample {
                        name: "main".to_owned(),
                        cpu_nanocores: 12_300_000,
                        memory_bytes: 34 << 20,
                    };
                    Some(PodSample {
                        name,
                        namespace,
                        containers: vec![container],
                    })
                });
                let sample = NodeSample {
                    window_ms: 1000,
                    cpu_nanocores: 250_000_000,
                    memory_bytes: 300 << 20,
                    pods: samples.collect(),
                    ..NodeSample::default()
                };
                server.metrics().record(node, sample, None);
            }
        }
    });
    axum::serve(listener, cluster.server.router_as("minidc-admin", &["system:masters"])).await?;
    Ok(())
}
