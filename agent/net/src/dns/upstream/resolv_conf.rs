//! The resolvers that the host uses: `nameserver` lines of resolv.conf(5).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Where resolvers listen (RFC 1035 section 4.2).
const PORT: u16 = 53;
/// More are not used. The C library takes three.
const LIMIT: usize = 8;

/// What a file is recognised by: a file with other contents differs in one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Of the file as it is now.
///
/// # Errors
/// If it is not there, or cannot be looked at.
pub(super) fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let metadata = fs::metadata(path)?;
    Ok(Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The resolvers in a file, in its order.
pub(super) fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(server) = words.next().and_then(address) else {
            continue;
        };
        if !servers.contains(&server) && servers.len() < LIMIT {
            servers.push(server);
        }
    }
    servers
}

fn address(word: &str) -> Option<SocketAddr> {
    let (plain, zone) = match word.split_once('%') {
        Some((plain, zone)) => (plain, Some(zone)),
        None => (word, None),
    };
    let address: IpAddr = plain.parse().ok()?;
    Some(match (address, zone) {
        // as the C library reads it
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), None) => (Ipv4Addr::LOCALHOST, PORT).into(),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), None) => (Ipv6Addr::LOCALHOST, PORT).into(),
        (address, None) => (address, PORT).into(),
        (IpAddr::V6(address), Some(zone)) => SocketAddrV6::new(address, PORT, 0, interface(zone)?).into(),
        (IpAddr::V4(_), Some(_)) => return None,
    })
}

/// Number of an interface by name or number.
fn interface(zone: &str) -> Option<u32> {
    if let Ok(number) = zone.parse() {
        return Some(number);
    }
    if zone.contains(['/', '.']) {
        return None;
    }
    fs::read_to_string(format!("/sys/class/net/{zone}/ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_in_their_order() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver nonsense\nnameserver 0.0.0.0\nnameserver fe80::1%3\nnameserver 192.0.2.1\nnameservers 192.0.2.2\n";
        let want: Vec<SocketAddr> = ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.1:53", "[fe80::1%3]:53"]
            .map(|server| server.parse().unwrap())
            .to_vec();
        assert_eq!(parse(text), want);
        assert_eq!(address("fe80::1%lo"), Some("[fe80::1%1]:53".parse().unwrap()));
        assert_eq!(address("fe80::1%../x"), None);
    }
}
