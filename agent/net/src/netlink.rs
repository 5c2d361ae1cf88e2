//! Reads addresses and routes from the kernel, and applies planned changes.

use std::net::{IpAddr, Ipv4Addr};

use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
    },
    sys::SocketAddr,
};

use crate::{
    Error, Range,
    routes::{Action, LinkAddress, Observed, Route},
};

/// Protocol number of our routes (`proto 77` in `ip route`); not assigned in iproute2's `rt_protos`. Only routes with it are
/// ever touched.
pub const ROUTE_PROTOCOL: u8 = 77;

/// The kernel's side of the network.
pub(crate) struct Netlink {
    handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
        ];
        let (connection, handle, events) = rtnetlink::new_multicast_connection(&groups).map_err(Error::Socket)?;
        Ok(Self {
            handle,
            events,
            connection: tokio::spawn(connection),
        })
    }

    /// Waits until addresses or routes may no longer be what they were. `false`: there will be no more events.
    pub(crate) async fn changed(&mut self) -> bool {
        while let Some((message, _)) = self.events.next().await {
            if concerns_us(&message.payload) {
                return true;
            }
        }
        false
    }

    /// Forgets events that came meanwhile; the caller is about to look itself.
    pub(crate) fn drain(&mut self) {
        while self.events.try_recv().is_ok() {}
    }

    pub(crate) async fn observe(&self) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            observed.addresses.extend(link_address(&message));
        }
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(query).execute();
        while let Some(message) = routes.try_next().await.map_err(failed("list routes"))? {
            observed.routes.extend(own_route(&message));
        }
        Ok(observed)
    }

    pub(crate) async fn apply(&self, action: &Action) -> Result<(), Error> {
        match action {
            Action::Replace(route) => {
                let Route { destination, gateway } = route;
                let attempt = format!("route {destination} via {gateway}");
                self.handle
                    .route()
                    .add(message(*route))
                    .replace()
                    .execute()
                    .await
                    .map_err(failed(attempt))
            }
            Action::Delete(route) => {
                let attempt = format!("remove the route {} via {}", route.destination, route.gateway);
                self.handle
                    .route()
                    .del(message(*route))
                    .execute()
                    .await
                    .map_err(failed(attempt))
            }
            Action::RemoveBridgeAddress(address) => self.remove_address(address).await,
        }
    }

    async fn remove_address(&self, wanted: &LinkAddress) -> Result<(), Error> {
        let attempt = format!("remove the address {} from {}", wanted.address, wanted.interface);
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            if link_address(&message).as_ref() == Some(wanted) {
                return self
                    .handle
                    .address()
                    .del(message)
                    .execute()
                    .await
                    .map_err(failed(attempt));
            }
        }
        Ok(())
    }
}

fn failed(attempt: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let attempt = attempt.into();
    move |source| Error::Netlink {
        attempt,
        source: Box::new(source),
    }
}

fn message(route: Route) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix())
        .gateway(route.gateway)
        .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
        .build()
}

fn own_route(message: &RouteMessage) -> Option<Route> {
    if u8::from(message.header.protocol) != ROUTE_PROTOCOL
        || message.header.table != RouteHeader::RT_TABLE_MAIN
        || message.header.address_family != AddressFamily::Inet
    {
        return None;
    }
    let (mut destination, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    let destination = Range::around(destination?, message.header.destination_prefix_length);
    Some(Route {
        destination,
        gateway: gateway?,
    })
}

fn link_address(message: &AddressMessage) -> Option<LinkAddress> {
    let (mut address, mut interface) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(local)) => address = Some(*local),
            // IPv4 addresses carry the interface's name, with `:alias` for a second one.
            AddressAttribute::Label(label) => interface = label.split(':').next().map(str::to_owned),
            _ => {}
        }
    }
    Some(LinkAddress {
        interface: interface?,
        address: address?,
        prefix: message.header.prefix_len,
    })
}

/// Pods come and go with their veths, and Wi-Fi tells of its signal: only what can move a route counts.
fn concerns_us(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    let NetlinkPayload::InnerMessage(message) = payload else {
        return false;
    };
    match message {
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            link_address(address).is_some()
        }
        RouteNetlinkMessage::DelRoute(route) => u8::from(route.header.protocol) == ROUTE_PROTOCOL,
        RouteNetlinkMessage::NewLink(link) => !link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with("veth"))),
        _ => false,
    }
}
