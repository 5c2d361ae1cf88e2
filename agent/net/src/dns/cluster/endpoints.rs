//! The endpoints of a headless Service, in the order they are searched in.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::facts::{Endpoint, Protocol, Service, Slice};

/// The slices of a Service, each with its own name.
pub(super) type Slices = Vec<(Box<str>, Arc<Slice>)>;

/// An endpoint that names lead to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    /// Its label below the Service, in small letters.
    pub(super) host: Box<[u8]>,
    /// Its address.
    pub(super) address: IpAddr,
    /// Which of the Service's slices it stands in: that one has its ports.
    pub(super) slice: usize,
}

/// The endpoints that names lead to.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Sorted by host.
    pub(super) list: Box<[Member]>,
    /// Each address once.
    pub(super) v4: Box<[Ipv4Addr]>,
    /// Each address once.
    pub(super) v6: Box<[Ipv6Addr]>,
}

impl Members {
    /// Those of a headless Service.
    pub(super) fn of(service: &Service, slices: &Slices) -> Self {
        let mut list: Vec<Member> = ready(service, slices)
            .map(|(slice, endpoint)| Member {
                host: host(endpoint),
                address: endpoint.address,
                slice,
            })
            .collect();
        list.sort_unstable();
        list.dedup();
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for member in &list {
            match member.address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self {
            list: list.into(),
            v4: v4.into(),
            v6: v6.into(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Addresses of the endpoints with this label, which is in small letters.
    pub(super) fn of_host<'a>(&'a self, label: &'a [u8]) -> impl Iterator<Item = IpAddr> + 'a {
        let first = self.list.partition_point(|member| &*member.host < label);
        self.list[first..]
            .iter()
            .take_while(move |member| &*member.host == label)
            .map(|member| member.address)
    }

    /// Whether an endpoint has a port of this name.
    pub(super) fn has_port(&self, slices: &Slices, name: &[u8], protocol: Protocol) -> bool {
        let has = |slice: &Slice| {
            slice
                .ports
                .iter()
                .any(|port| port.protocol == protocol && port.name.as_bytes().eq_ignore_ascii_case(name))
        };
        // slices are few, endpoints many
        slices
            .iter()
            .enumerate()
            .any(|(index, (_, slice))| has(slice) && self.list.iter().any(|member| member.slice == index))
    }
}

/// The endpoints that names lead to, and which slice each stands in.
pub(super) fn ready<'a>(service: &'a Service, slices: &'a Slices) -> impl Iterator<Item = (usize, &'a Endpoint)> {
    slices.iter().enumerate().flat_map(|(index, (_, slice))| {
        slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready || service.publish_not_ready)
            .map(move |endpoint| (index, endpoint))
    })
}

/// The label of an endpoint: its host name, or else its address with dashes, as CoreDNS has it.
pub(super) fn host(endpoint: &Endpoint) -> Box<[u8]> {
    match &endpoint.hostname {
        Some(name) => name.to_ascii_lowercase().into_bytes().into(),
        None => dashed(endpoint.address).into_bytes().into(),
    }
}

/// Whether the endpoint has this label, which is in small letters.
pub(super) fn is_host(endpoint: &Endpoint, label: &[u8]) -> bool {
    match &endpoint.hostname {
        Some(name) => name.as_bytes().eq_ignore_ascii_case(label),
        None => {
            crate::dns::reverse::dashed(label) == Some(endpoint.address)
                && *label == *dashed(endpoint.address).as_bytes()
        }
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
