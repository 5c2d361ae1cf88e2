//! The answers to a batch of queries, and how they are sent with the least work for the kernel.
//!
//! Sending is most of the cost of an answer: the way through the kernel is far longer than all we do. Answers that go to the
//! same socket, such as those to the A and AAAA questions that a C library asks at once, are handed over as one (UDP
//! generic segmentation offload, Linux 4.18): the kernel or the network card takes them apart, and the client sees no
//! difference. All parts but the last must have the same size, and the last may be smaller.

use std::{
    array,
    io::IoSlice,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::RawFd,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{self, ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike},
};

use crate::dns::message::UDP_SIZE;

/// Packets taken and sent at once.
pub(super) const BATCH: usize = 64;

/// Address of a client as the kernel has it. One type per family, since it is copied for each packet, and one for all
/// families is large.
pub(super) trait Peer: SockaddrLike + Copy + Send + 'static {
    /// The same, as it is used elsewhere.
    fn address(&self) -> SocketAddr;
}

impl Peer for SockaddrIn {
    fn address(&self) -> SocketAddr {
        SocketAddrV4::from(*self).into()
    }
}

impl Peer for SockaddrIn6 {
    fn address(&self) -> SocketAddr {
        SocketAddrV6::from(*self).into()
    }
}

/// Answers to a batch, one after another in one buffer.
pub(super) struct Answers<P> {
    /// Where answers are appended.
    pub(super) bytes: Vec<u8>,
    list: [Answer<P>; BATCH],
    count: usize,
}

/// One answer.
#[derive(Clone, Copy)]
struct Answer<P> {
    start: usize,
    end: usize,
    to: Option<P>,
    /// Tells clients apart.
    client: Client,
}

/// Address (of either family) and port.
type Client = (u128, u16);

/// Answers that are handed to the kernel as one: places in the order of [`plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    places: Range<usize>,
    /// Bytes of each but the last.
    size: usize,
}

/// Sends answers from one socket.
pub(super) struct Sender<P> {
    single: MultiHeaders<P>,
    joined: MultiHeaders<P>,
    /// Whether the kernel takes joined answers; it is asked until it refuses.
    joins: bool,
}

impl<P: Peer> Answers<P> {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(BATCH * UDP_SIZE),
            list: [Answer {
                start: 0,
                end: 0,
                to: None,
                client: (0, 0),
            }; BATCH],
            count: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// What was appended since `start` is an answer to this address.
    pub(super) fn end(&mut self, start: usize, to: P) {
        if let Some(answer) = self.list.get_mut(self.count) {
            *answer = Answer {
                start,
                end: self.bytes.len(),
                to: Some(to),
                client: client(to.address()),
            };
            self.count += 1;
        }
    }

    fn get(&self, index: usize) -> Option<&Answer<P>> {
        self.list[..self.count].get(index)
    }

    fn bytes_of(&self, index: usize) -> &[u8] {
        let answer = self
            .get(index)
            .and_then(|answer| self.bytes.get(answer.start..answer.end));
        answer.unwrap_or_default()
    }
}

impl<P: Peer> Sender<P> {
    pub(super) fn new() -> Self {
        Self {
            single: MultiHeaders::preallocate(BATCH, None),
            joined: MultiHeaders::preallocate(BATCH, Some(cmsg_space!(u16))),
            joins: true,
        }
    }

    /// Sends all answers. One client that cannot be reached, or does not take its answers, keeps nobody waiting.
    pub(super) fn send(&mut self, socket: RawFd, answers: &Answers<P>) {
        if answers.count < 2 {
            if let Some(to) = answers.get(0).and_then(|answer| answer.to) {
                let _ = socket::sendto(socket, answers.bytes_of(0), &to, MsgFlags::MSG_DONTWAIT);
            }
            return;
        }
        let (order, groups, count) = plan(answers, self.joins);
        let slices: [IoSlice<'_>; BATCH] = array::from_fn(|place| IoSlice::new(answers.bytes_of(order[place])));
        let groups = &groups[..count];
        // the single ones stand first, and those of one size together
        let mut rest = groups;
        while let Some(first) = rest.first() {
            let alike =
                |group: &&Group| group.size == first.size && (group.places.len() > 1) == (first.places.len() > 1);
            let (now, later) = rest.split_at(rest.iter().take_while(alike).count());
            rest = later;
            self.send_alike(socket, answers, &order, &slices, now);
        }
    }

    /// Sends groups that have one size, or are all single.
    fn send_alike(
        &mut self,
        socket: RawFd,
        answers: &Answers<P>,
        order: &[usize; BATCH],
        slices: &[IoSlice<'_>; BATCH],
        groups: &[Group],
    ) {
        let Some(first) = groups.first() else { return };
        let parts: [&[IoSlice<'_>]; BATCH] = array::from_fn(|index| {
            let places = groups.get(index).map_or(0..0, |group| group.places.clone());
            &slices[places]
        });
        let to: [Option<P>; BATCH] = array::from_fn(|index| {
            let place = groups.get(index)?.places.start;
            answers.get(order[place])?.to
        });
        let size = u16::try_from(first.size).unwrap_or(u16::MAX);
        let joined = first.places.len() > 1;
        let mut sent = 0;
        while sent < groups.len() {
            let (parts, to) = (&parts[sent..groups.len()], &to[sent..groups.len()]);
            let flags = MsgFlags::MSG_DONTWAIT;
            let result = if joined {
                let control = [ControlMessage::UdpGsoSegments(&size)];
                socket::sendmmsg(socket, &mut self.joined, parts, to, control, flags).map(Iterator::count)
            } else {
                socket::sendmmsg(socket, &mut self.single, parts, to, [], flags).map(Iterator::count)
            };
            match result {
                Ok(count) => sent += count.max(1),
                Err(Errno::EINTR) => {}
                // a kernel or a device that does not do it: each alone, now and from now on
                Err(Errno::EIO | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT) if joined => {
                    self.joins = false;
                    for place in groups[sent].places.clone() {
                        if let Some(to) = to.first().and_then(Option::as_ref) {
                            let _ = socket::sendto(socket, &slices[place], to, flags);
                        }
                    }
                    sent += 1;
                }
                Err(_) => sent += 1,
            }
        }
    }
}

/// In which order the answers are sent, and which are handed over together: first those that go alone, then groups by their
/// size.
fn plan<P: Peer>(answers: &Answers<P>, joins: bool) -> ([usize; BATCH], [Group; BATCH], usize) {
    let mut order: [usize; BATCH] = array::from_fn(|index| index);
    let mut groups: [Group; BATCH] = array::from_fn(|_| Group::default());
    let count = answers.count;
    let size_of = |index: usize| answers.bytes_of(index).len();
    let client_of = |index: usize| answers.get(index).map(|answer| answer.client);
    if joins {
        // of one client the longest first
        order[..count].sort_unstable_by_key(|index| (client_of(*index), usize::MAX - size_of(*index)));
    }
    let mut number = 0;
    let mut place = 0;
    while place < count {
        let first = order[place];
        let size = size_of(first);
        let mut end = place + 1;
        while joins && end < count && client_of(order[end]) == client_of(first) {
            end += 1;
            // a smaller one has to be the last
            if size_of(order[end - 1]) < size {
                break;
            }
        }
        groups[number] = Group {
            places: place..end,
            size,
        };
        number += 1;
        place = end;
    }
    // single ones are sent in one call whatever their size
    groups[..number].sort_unstable_by_key(|group| if group.places.len() > 1 { group.size } else { 0 });
    for group in groups[..number].iter_mut().filter(|group| group.places.len() == 1) {
        group.size = 0;
    }
    (order, groups, number)
}

fn client(address: SocketAddr) -> Client {
    let bits = match address.ip() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    (bits, address.port())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::UdpSocket, os::fd::AsRawFd, time::Duration};

    use super::*;

    fn answers(list: &[(SocketAddrV4, usize)]) -> Answers<SockaddrIn> {
        let mut answers = Answers::new();
        for (number, (to, size)) in list.iter().enumerate() {
            let start = answers.bytes.len();
            answers.bytes.resize(start + size, number as u8);
            answers.end(start, SockaddrIn::from(*to));
        }
        answers
    }

    fn port(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([127, 0, 0, 1].into(), port)
    }

    #[test]
    fn answers_to_one_client_go_together_longest_first() {
        let answers = answers(&[
            (port(1), 60),
            (port(2), 50),
            (port(1), 90),
            (port(3), 70),
            (port(3), 70),
            (port(3), 60),
        ]);
        let (order, groups, count) = plan(&answers, true);
        let told: Vec<(Vec<usize>, usize)> = groups[..count]
            .iter()
            .map(|group| (order[group.places.clone()].to_vec(), group.size))
            .collect();
        assert_eq!(told.len(), 3);
        assert_eq!(told[0], (vec![1], 0));
        assert_eq!(told[1].1, 70);
        assert_eq!(told[1].0[2], 5);
        assert_eq!(told[2], (vec![2, 0], 90));
    }

    #[test]
    fn a_smaller_answer_is_the_last_of_its_group() {
        let answers = answers(&[
            (port(1), 60),
            (port(1), 50),
            (port(1), 40),
            (port(1), 30),
            (port(1), 30),
        ]);
        let (order, groups, count) = plan(&answers, true);
        let mut told: Vec<Vec<usize>> = groups[..count]
            .iter()
            .map(|group| order[group.places.clone()].to_vec())
            .collect();
        for group in &mut told {
            group.sort_unstable();
        }
        told.sort();
        assert_eq!(told, [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn every_answer_arrives_whole_whether_joined_or_not() {
        for joins in [true, false] {
            let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            let server = UdpSocket::bind("127.0.0.1:0").unwrap();
            let list: Vec<(SocketAddrV4, usize)> = (0..BATCH)
                .map(|number| {
                    (
                        port(clients[number % 3].local_addr().unwrap().port()),
                        40 + number % 5 * 30,
                    )
                })
                .collect();
            let answers = answers(&list);
            let mut sender = Sender::new();
            sender.joins = joins;
            sender.send(server.as_raw_fd(), &answers);
            assert_eq!(sender.joins, joins, "Linux can since 4.18");
            let mut received = BTreeMap::new();
            for (index, client) in clients.iter().enumerate() {
                client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                for _ in (index..BATCH).step_by(3) {
                    let mut buffer = [0; 2048];
                    let length = client.recv(&mut buffer).unwrap();
                    assert!(buffer[..length].iter().all(|byte| *byte == buffer[0]));
                    let to = port(client.local_addr().unwrap().port());
                    received.insert(usize::from(buffer[0]), (to, length));
                }
            }
            assert_eq!(received.into_values().collect::<Vec<_>>(), list);
        }
    }
}
