//! The rules that kube-proxy makes in its mode iptables (pkg/proxy/iptables/proxier.go of Kubernetes 1.36), handed to
//! iptables-nft as it does.
//!
//! A change is handed over as kube-proxy's partial sync does since 1.28: the chains of the changed Service, and the chain
//! KUBE-SERVICES as a whole, which it always writes anew.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Figures,
    node::{ENDPOINTS, Node, PORT, cluster_ip, elsewhere},
};

/// Changes that the quantiles are taken from; each takes long where there are many Services.
fn changes(services: usize) -> usize {
    match services {
        0..=100 => 100,
        101..=2_000 => 30,
        _ => 10,
    }
}

pub(crate) fn measure(node: &Node, services: usize) -> Result<Figures> {
    let mut figures = Figures::default();
    let measured = services / 2;
    let began = Instant::now();
    restore(&full(services, measured))?;
    figures.load = began.elapsed().as_secs_f64() * 1e3;
    figures.change = node.changes(cluster_ip(measured), changes(services), |number| {
        let to = ENDPOINTS[(number + 1) % 2];
        let mut text = String::from("*nat\n");
        let mut rules = String::new();
        dispatch(services, &mut text, &mut rules)?;
        service(measured, &[to], &mut text, &mut rules)?;
        let gone = endpoint_chain(measured, ENDPOINTS[number % 2]);
        writeln!(text, ":{gone} - [0:0]")?;
        writeln!(rules, "-X {gone}")?;
        restore(&format!("{text}{rules}COMMIT\n"))?;
        Ok(to)
    })?;
    node.connections(cluster_ip(measured), &mut figures)?;
    Ok(figures)
}

fn restore(text: &str) -> Result<()> {
    let mut child = Command::new("iptables-nft-restore")
        .args(["--noflush", "--counters", "-w", "5"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start iptables-nft-restore")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "iptables-nft-restore: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// All rules for so many Services.
fn full(services: usize, measured: usize) -> String {
    let mut chains = String::from("*nat\n");
    let mut rules = String::from(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n",
    );
    let written = dispatch(services, &mut chains, &mut rules).and_then(|()| {
        (0..services).try_for_each(|number| {
            if number == measured {
                service(number, &[ENDPOINTS[0]], &mut chains, &mut rules)
            } else {
                service(number, &elsewhere(number), &mut chains, &mut rules)
            }
        })
    });
    debug_assert!(written.is_ok(), "a string takes everything");
    format!("{chains}{rules}COMMIT\n")
}

/// The chains that are written in each sync.
fn dispatch(services: usize, chains: &mut String, rules: &mut String) -> std::fmt::Result {
    for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"] {
        writeln!(chains, ":{chain} - [0:0]")?;
    }
    rules.push_str(
        "-A KUBE-POSTROUTING -m mark ! --mark 0x00004000/0x00004000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x00004000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x00004000\n",
    );
    for number in 0..services {
        writeln!(
            rules,
            "-A KUBE-SERVICES -m comment --comment \"default/service-{number}:http cluster IP\" -m tcp -p tcp -d {} \
             --dport 80 -j {}",
            cluster_ip(number),
            service_chain(number)
        )?;
    }
    rules.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
         -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n",
    );
    Ok(())
}

/// The chains of one Service.
fn service(number: usize, endpoints: &[Ipv4Addr], chains: &mut String, rules: &mut String) -> std::fmt::Result {
    let chain = service_chain(number);
    writeln!(chains, ":{chain} - [0:0]")?;
    writeln!(
        rules,
        "-A {chain} -m comment --comment \"default/service-{number}:http cluster IP\" -m tcp -p tcp -d {} --dport 80 ! -s \
         100.64.0.0/16 -j KUBE-MARK-MASQ",
        cluster_ip(number)
    )?;
    for (index, address) in endpoints.iter().enumerate() {
        let endpoint = endpoint_chain(number, *address);
        let comment = format!("-m comment --comment \"default/service-{number}:http -> {address}:{PORT}\"");
        let left = endpoints.len() - index;
        let statistic = if left > 1 {
            format!(
                "-m statistic --mode random --probability {:.10} ",
                1.0 / f64::from(u32::try_from(left).unwrap_or(1))
            )
        } else {
            String::new()
        };
        writeln!(rules, "-A {chain} {comment} {statistic}-j {endpoint}")?;
        writeln!(chains, ":{endpoint} - [0:0]")?;
        writeln!(
            rules,
            "-A {endpoint} -m comment --comment default/service-{number}:http -s {address} -j KUBE-MARK-MASQ"
        )?;
        writeln!(
            rules,
            "-A {endpoint} -m comment --comment default/service-{number}:http -m tcp -p tcp -j DNAT --to-destination \
             {address}:{PORT}"
        )?;
    }
    Ok(())
}

/// As long as kube-proxy's, whose names end in 16 characters of a hash.
fn service_chain(number: usize) -> String {
    format!("KUBE-SVC-{number:016}")
}

fn endpoint_chain(number: usize, address: Ipv4Addr) -> String {
    format!("KUBE-SEP-{number:06}{:010}", u32::from(address))
}
