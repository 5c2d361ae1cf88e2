//! Reads interfaces, addresses and routes from the kernel, and applies planned changes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVxlan, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
    sys::SocketAddr,
};

use crate::{
    Error, Range,
    conflist::BRIDGE,
    routes::{self, Action, Bridge, Hop, LOOPBACK, LinkAddress, OWN_LABEL, Observed, Route},
    vxlan::{self, End, Mac, Remote},
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

    /// Waits until interfaces, addresses or routes may no longer be what they were. `false`: there will be no more events.
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
        let mut names = BTreeMap::new();
        let mut tunnel = None;
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.map_err(failed("list interfaces"))? {
            let Some(name) = name(&message) else { continue };
            names.insert(message.header.index, name.to_owned());
            let mtu = mtu(&message);
            observed.mtus.insert(name.to_owned(), mtu);
            match name {
                BRIDGE => {
                    let up = message.header.flags.contains(LinkFlags::Up);
                    observed.bridge = Some(Bridge { up, mtu });
                }
                vxlan::DEVICE => tunnel = Some(message),
                _ => {}
            }
        }
        // the kernel makes one list at a time
        if let Some(link) = tunnel {
            observed.tunnel = Some(self.tunnel(&link).await?);
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            observed.addresses.extend(link_address(&message));
        }
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(query).execute();
        while let Some(message) = routes.try_next().await.map_err(failed("list routes"))? {
            match route(&message, &names) {
                Some(Known::Own(route)) => observed.routes.push(route),
                Some(Known::Other(range)) => observed.reach.push(range),
                None => {}
            }
        }
        Ok(observed)
    }

    /// The device with its neighbour and forwarding entries.
    async fn tunnel(&self, link: &LinkMessage) -> Result<vxlan::Device, Error> {
        let mut device = device(link);
        for family in [AddressFamily::Inet, AddressFamily::Bridge] {
            let query = self.handle.neighbours().get().set_address_family(family);
            let mut entries = query.execute();
            while let Some(entry) = entries.try_next().await.map_err(failed("list neighbours"))? {
                if entry.header.ifindex != link.header.index {
                    continue;
                }
                let Some((address, mac)) = neighbour(&entry) else {
                    continue;
                };
                if family == AddressFamily::Inet {
                    // one that is not permanent would be asked for, which nobody answers
                    if entry.header.state == NeighbourState::Permanent {
                        device.neighbours.push((address, mac));
                    }
                } else {
                    device.forwarding.push((mac, address));
                }
            }
        }
        Ok(device)
    }

    pub(crate) async fn apply(&self, action: &Action) -> Result<(), Error> {
        match action {
            Action::MakeBridge(mac) => self.make_bridge(*mac).await,
            Action::BridgeUp => self.switch_on(BRIDGE).await,
            Action::SetMtu(interface, mtu) => {
                let change = LinkUnspec::new_with_name(interface).mtu(*mtu).build();
                let attempt = format!("set the largest packet of {interface} to {mtu} bytes");
                self.handle.link().set(change).execute().await.map_err(failed(attempt))
            }
            Action::MakeTunnel(end, mtu) => self.make_tunnel(end, *mtu).await,
            Action::RemoveTunnel => self.remove_link(vxlan::DEVICE).await,
            Action::SetRemote(remote) => self.set_remote(remote).await,
            Action::RemoveNeighbour(address) => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Inet;
                message
                    .attributes
                    .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(*address)));
                self.remove_neighbour(message, format!("forget the neighbour {address} in the tunnel"))
                    .await
            }
            Action::RemoveForwarding(mac, node) => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Bridge;
                message.header.flags = NeighbourFlags::Own;
                message
                    .attributes
                    .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
                message
                    .attributes
                    .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(*node)));
                self.remove_neighbour(message, format!("forget the tunnel's end on {node}"))
                    .await
            }
            Action::AddAddress(address) => self.add_address(address).await,
            Action::RemoveAddress(address) => self.remove_address(address).await,
            Action::Replace(route) => {
                let attempt = format!("route {}", described(route));
                let message = self.message(route).await?;
                let request = self.handle.route().add(message).replace();
                request.execute().await.map_err(failed(attempt))
            }
            Action::Delete(route) => {
                let attempt = format!("remove the route {}", described(route));
                let message = self.message(route).await?;
                self.handle
                    .route()
                    .del(message)
                    .execute()
                    .await
                    .map_err(failed(attempt))
            }
        }
    }

    /// Removes an interface, with the routes and addresses on it.
    pub(crate) async fn remove_link(&self, interface: &str) -> Result<(), Error> {
        let attempt = format!("remove {interface}");
        let index = self.index(interface).await?;
        self.handle.link().del(index).execute().await.map_err(failed(attempt))
    }

    async fn index(&self, interface: &str) -> Result<u32, Error> {
        let attempt = format!("look up the interface {interface}");
        let mut links = self.handle.link().get().match_name(interface.to_owned()).execute();
        let link = links.try_next().await.map_err(failed(attempt.clone()))?;
        link.map(|link| link.header.index)
            .ok_or_else(|| failed(attempt)(rtnetlink::Error::RequestFailed))
    }

    async fn switch_on(&self, interface: &str) -> Result<(), Error> {
        let change = LinkUnspec::new_with_name(interface).up().build();
        let attempt = format!("switch {interface} on");
        self.handle.link().set(change).execute().await.map_err(failed(attempt))
    }

    /// With a hardware address given, the bridge does not take over that of a pod that comes, and lose it when it goes.
    async fn make_bridge(&self, mac: Mac) -> Result<(), Error> {
        let link = LinkBridge::new(BRIDGE).address(mac.to_vec()).build();
        let attempt = format!("make the bridge {BRIDGE}");
        self.handle.link().add(link).execute().await.map_err(failed(attempt))
    }

    /// Bound to no interface and no address: packets take the node's own routes, also after it moved.
    async fn make_tunnel(&self, end: &End, mtu: u32) -> Result<(), Error> {
        let link = LinkVxlan::new(vxlan::DEVICE, vxlan::NETWORK)
            .port(vxlan::PORT)
            .learning(false)
            .address(end.mac.to_vec())
            .mtu(mtu)
            .up()
            .build();
        let attempt = format!("make the tunnel {}", vxlan::DEVICE);
        self.handle.link().add(link).execute().await.map_err(failed(attempt))
    }

    async fn set_remote(&self, remote: &Remote) -> Result<(), Error> {
        let Remote { address, node } = *remote;
        let index = self.index(vxlan::DEVICE).await?;
        let mac = vxlan::mac(address);
        let neighbours = self.handle.neighbours();
        neighbours
            .add(index, address.into())
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("tell the tunnel of its end {address}")))?;
        neighbours
            .add_bridge(index, &mac)
            .destination(node.into())
            .flags(NeighbourFlags::Own)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("tell the tunnel that its end {address} is on {node}")))
    }

    async fn remove_neighbour(&self, mut message: NeighbourMessage, attempt: String) -> Result<(), Error> {
        message.header.ifindex = self.index(vxlan::DEVICE).await?;
        let request = self.handle.neighbours().del(message);
        request.execute().await.map_err(failed(attempt))
    }

    async fn add_address(&self, wanted: &LinkAddress) -> Result<(), Error> {
        let LinkAddress { interface, address, .. } = wanted;
        let attempt = format!("add the address {address} to {interface}");
        let index = self.index(interface).await?;
        let mut request = self.handle.address().add(index, (*address).into(), wanted.prefix);
        if wanted.own {
            let label = AddressAttribute::Label(OWN_LABEL.into());
            request.message_mut().attributes.push(label);
        }
        request.execute().await.map_err(failed(attempt))
    }

    async fn remove_address(&self, wanted: &LinkAddress) -> Result<(), Error> {
        let attempt = format!("remove the address {} from {}", wanted.address, wanted.interface);
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            if link_address(&message).as_ref() == Some(wanted) {
                let request = self.handle.address().del(message);
                return request.execute().await.map_err(failed(attempt));
            }
        }
        Ok(())
    }

    async fn message(&self, route: &Route) -> Result<RouteMessage, Error> {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.destination.network(), route.destination.prefix())
            .protocol(RouteProtocol::from(ROUTE_PROTOCOL));
        Ok(match route.hop {
            Hop::Gateway(gateway) => builder.gateway(gateway).build(),
            Hop::Tunnel(end) => {
                let index = self.index(vxlan::DEVICE).await?;
                builder.gateway(end).output_interface(index).onlink().build()
            }
            Hop::Bridge(source) => {
                let index = self.index(BRIDGE).await?;
                let builder = builder.output_interface(index).scope(RouteScope::Link);
                builder.pref_source(source).build()
            }
        })
    }
}

fn described(route: &Route) -> String {
    let destination = route.destination;
    match route.hop {
        Hop::Gateway(gateway) => format!("{destination} via {gateway}"),
        Hop::Tunnel(end) => format!("{destination} via {end} in the tunnel"),
        Hop::Bridge(source) => format!("{destination} from {source}"),
    }
}

fn failed(attempt: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let attempt = attempt.into();
    move |source| Error::Netlink {
        attempt,
        source: Box::new(source),
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn mtu(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(crate::mtu::ETHERNET)
}

fn device(link: &LinkMessage) -> vxlan::Device {
    let mut device = vxlan::Device {
        mtu: mtu(link),
        ..vxlan::Device::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(address) => device.mac = Mac::try_from(address.as_slice()).unwrap_or_default(),
            LinkAttribute::LinkInfo(infos) => {
                let vxlan = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(vxlan)) => Some(vxlan),
                    _ => None,
                });
                for info in vxlan.into_iter().flatten() {
                    match info {
                        InfoVxlan::Id(network) => device.network = Some(*network),
                        InfoVxlan::Port(port) => device.port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    device
}

fn neighbour(entry: &NeighbourMessage) -> Option<(Ipv4Addr, Mac)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(*found),
            NeighbourAttribute::LinkLayerAddress(found) => mac = Mac::try_from(found.as_slice()).ok(),
            _ => {}
        }
    }
    address.zip(mac)
}

/// A route of the main table.
enum Known {
    Own(Route),
    /// Someone else's, that leads out of this node.
    Other(Range),
}

fn route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Known> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.address_family != AddressFamily::Inet {
        return None;
    }
    let (mut destination, mut gateway, mut source, mut interface) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => interface = names.get(index).map(String::as_str),
            _ => {}
        }
    }
    let destination = Range::around(destination, message.header.destination_prefix_length);
    if u8::from(message.header.protocol) != ROUTE_PROTOCOL {
        let leaves = message.header.kind == RouteType::Unicast && !interface.is_some_and(routes::is_inner);
        return leaves.then_some(Known::Other(destination));
    }
    let hop = match (interface, gateway, source) {
        (Some(vxlan::DEVICE), Some(end), _) => Hop::Tunnel(end),
        (Some(BRIDGE), None, Some(source)) => Hop::Bridge(source),
        (_, Some(gateway), _) => Hop::Gateway(gateway),
        // one that no version made: replaced if its destination is wanted
        _ => return None,
    };
    Some(Known::Own(Route { destination, hop }))
}

fn link_address(message: &AddressMessage) -> Option<LinkAddress> {
    let (mut address, mut label) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(local)) => address = Some(*local),
            AddressAttribute::Label(found) => label = Some(found.as_str()),
            _ => {}
        }
    }
    // IPv4 addresses carry the interface's name, with `:alias` for a second one.
    let interface = label?.split(':').next()?.to_owned();
    Some(LinkAddress {
        own: interface == LOOPBACK && label == Some(OWN_LABEL),
        interface,
        address: address?,
        prefix: message.header.prefix_len,
    })
}

/// Pods come and go with their veths, and Wi-Fi tells of its signal: only what can move a route counts.
fn concerns_us(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    let NetlinkPayload::InnerMessage(message) = payload else {
        return false;
    };
    let own = |route: &RouteMessage| u8::from(route.header.protocol) == ROUTE_PROTOCOL;
    let main = |route: &RouteMessage| route.header.table == RouteHeader::RT_TABLE_MAIN;
    match message {
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            link_address(address).is_some()
        }
        RouteNetlinkMessage::NewRoute(route) => main(route) && !own(route),
        RouteNetlinkMessage::DelRoute(route) => main(route),
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            // news of a signal carry no packet size
            let whole = link
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, LinkAttribute::Mtu(_)));
            whole && !name(link).is_some_and(|name| name.starts_with("veth"))
        }
        _ => false,
    }
}
