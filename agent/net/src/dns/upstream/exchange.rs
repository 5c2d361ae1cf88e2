//! One question to one resolver. Forged answers are kept out: a port and a number of their own for each question, letters of
//! mixed case that must come back as they were (draft-vixie-dnsext-dns0x20), a connected socket, and TCP when something looks
//! odd (RFC 5452).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Manner, Server};
use crate::dns::{
    cache::Wants,
    message::{Class, Flags, HEADER, Kind, Malformed, Question, Rcode, Reader, Writer},
    name::Name,
};

/// Why a resolver gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It cannot be reached.
    #[error("ask {server}")]
    Io {
        /// Whom.
        server: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("no answer from {0}")]
    Silence(SocketAddr),
    /// What came is not an answer.
    #[error("{0} answers with something malformed")]
    Malformed(SocketAddr),
    /// It does not want to, or could not.
    #[error("{server} answers with code {}", code.0)]
    Refused {
        /// Who.
        server: SocketAddr,
        /// What it said.
        code: Rcode,
    },
}

impl Failure {
    /// Whether the resolver itself is well: only this question failed.
    pub(crate) fn is_about_question(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// How long a resolver is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// After so many packets that are not the answer, somebody is guessing.
const STRAY_LIMIT: u32 = 4;
/// Larger than any packet we said we take.
const BUFFER: usize = 4096;

/// Asks one resolver, and takes note of how it does. What is returned is an answer to this very question, with records not
/// yet looked at.
///
/// # Errors
/// See [`Failure`].
pub(crate) async fn ask(
    server: &Server,
    name: &Name,
    kind: Kind,
    wants: Wants,
    recursive: bool,
) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let result = match timeout(PATIENCE, attempt(server, name, kind, wants, recursive)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Silence(server.address)),
    };
    match &result {
        Ok(_) => server.answered(started.elapsed()),
        Err(failure) if failure.is_about_question() => server.answered(started.elapsed()),
        Err(Failure::Silence(_)) => {
            server.is_slow(started.elapsed());
            server.failed(Instant::now());
        }
        Err(_) => server.failed(Instant::now()),
    }
    result
}

/// What came by UDP.
enum Packet {
    Answer(Vec<u8>),
    /// To be asked again by TCP; whether because of the case of letters.
    Again {
        case: bool,
    },
    /// It does not know EDNS.
    Plain,
}

async fn attempt(server: &Server, name: &Name, kind: Kind, wants: Wants, recursive: bool) -> Result<Vec<u8>, Failure> {
    let failed = |source| Failure::Io {
        server: server.address,
        source,
    };
    let mut manner = server.manner();
    loop {
        let query = Query::new(name, kind, wants, recursive, manner).map_err(failed)?;
        match query.by_udp(server.address).await.map_err(failed)? {
            Packet::Answer(message) => return query.judge(server, message),
            Packet::Plain if manner.edns => {
                server.is_plain();
                manner.edns = false;
            }
            Packet::Plain => return Err(Failure::Malformed(server.address)),
            Packet::Again { case } => {
                let message = query.by_tcp(server.address).await.map_err(failed)?;
                if !query.is_answered_by(&message, true) {
                    return Err(Failure::Malformed(server.address));
                }
                if case && !query.is_answered_by(&message, false) {
                    // also where nobody can interfere
                    server.changes_case();
                }
                return query.judge(server, message);
            }
        }
    }
}

struct Query {
    id: u16,
    question: Question,
    message: Vec<u8>,
    edns: bool,
}

impl Query {
    fn new(name: &Name, kind: Kind, wants: Wants, recursive: bool, manner: Manner) -> io::Result<Self> {
        // two bytes of number, a bit for each letter
        let mut random = [0; 2 + 32];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| io::Error::other("no random numbers"))?;
        let id = u16::from_be_bytes([random[0], random[1]]);
        let name = if manner.mixed_case {
            mixed(name, &random[2..])
        } else {
            name.lowered()
        };
        let question = Question {
            name,
            kind,
            class: Class::IN,
        };
        let mut message = Vec::with_capacity(64);
        let mut writer = Writer::new(&mut message, usize::from(u16::MAX), manner.edns);
        writer
            .question(&question)
            .map_err(|_| io::Error::other("the question is too long"))?;
        let flags = if recursive { wants.flags() } else { Flags::default() };
        writer.finish(id, flags.0, Rcode::NOERROR, wants.dnssec);
        Ok(Self {
            id,
            question,
            message,
            edns: manner.edns,
        })
    }

    async fn by_udp(&self, server: SocketAddr) -> io::Result<Packet> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        // the kernel chooses a free port at random; connected, it takes packets from this server only
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(&self.message).await?;
        let mut buffer = vec![0; BUFFER];
        let mut strays = 0;
        loop {
            let length = socket.recv(&mut buffer).await?;
            let message = &buffer[..length];
            if self.is_answered_by(message, false) {
                return Ok(self.packet(message));
            }
            if self.is_plain_error(message) {
                return Ok(Packet::Plain);
            }
            if self.is_answered_by(message, true) {
                return Ok(Packet::Again { case: true });
            }
            strays += 1;
            if strays >= STRAY_LIMIT {
                return Ok(Packet::Again { case: false });
            }
        }
    }

    fn packet(&self, message: &[u8]) -> Packet {
        let flags = Reader::new(message)
            .header()
            .map_or(Flags::default(), |header| header.flags);
        if flags.has(Flags::TRUNCATED) {
            return Packet::Again { case: false };
        }
        let refused = matches!(flags.rcode(), Rcode::FORMERR | Rcode::NOTIMP);
        if self.edns && refused {
            Packet::Plain
        } else {
            Packet::Answer(message.to_vec())
        }
    }

    /// Servers from before EDNS may answer with nothing but a header (RFC 6891 section 7).
    fn is_plain_error(&self, message: &[u8]) -> bool {
        let header = Reader::new(message).header();
        self.edns
            && message.len() == HEADER
            && header.is_ok_and(|header| {
                header.id == self.id
                    && header.flags.has(Flags::RESPONSE)
                    && matches!(header.flags.rcode(), Rcode::FORMERR | Rcode::NOTIMP)
            })
    }

    async fn by_tcp(&self, server: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(self.message.len()).map_err(|_| io::Error::other("the question is too long"))?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&self.message);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut message = Vec::new();
        // memory for what comes, not for what is announced
        let read = (&mut stream).take(u64::from(length)).read_to_end(&mut message).await?;
        if read < usize::from(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(message)
    }

    /// Whether this is an answer to our question, letters in the case we wrote them in unless `any_case`.
    fn is_answered_by(&self, message: &[u8], any_case: bool) -> bool {
        let mut reader = Reader::new(message);
        let Ok(header) = reader.header() else {
            return false;
        };
        if header.id != self.id
            || !header.flags.has(Flags::RESPONSE)
            || header.flags.opcode() != 0
            || header.counts[0] != 1
        {
            return false;
        }
        reader.question().is_ok_and(|question| {
            let same = question.name.wire() == self.question.name.wire();
            (same || any_case && question.name == self.question.name)
                && question.kind == self.question.kind
                && question.class == self.question.class
        })
    }

    fn judge(&self, server: &Server, mut message: Vec<u8>) -> Result<Vec<u8>, Failure> {
        // names in the answer point to the question: the letters that were mixed are not for clients
        let place = message.get_mut(HEADER..HEADER + self.question.name.wire().len());
        if let Some(place) = place.filter(|place| place.eq_ignore_ascii_case(self.question.name.wire())) {
            place.make_ascii_lowercase();
        }
        let code = full_code(&message).map_err(|Malformed| Failure::Malformed(server.address))?;
        match code {
            Rcode::NOERROR | Rcode::NXDOMAIN => Ok(message),
            code => Err(Failure::Refused {
                server: server.address,
                code,
            }),
        }
    }
}

/// The code with the bits that EDNS adds.
fn full_code(message: &[u8]) -> Result<Rcode, Malformed> {
    let mut reader = Reader::new(message);
    let header = reader.header()?;
    reader.question()?;
    let mut code = header.flags.rcode();
    let records: usize = header.counts[1..].iter().map(|count| usize::from(*count)).sum();
    for _ in 0..records {
        if let Some(edns) = reader.record()?.edns() {
            code = Rcode(code.0 | u16::from(edns.extended) << 4);
        }
    }
    Ok(code)
}

/// The name with each letter in a case of its own.
fn mixed(name: &Name, random: &[u8]) -> Name {
    let mut wire = name.lowered().wire().to_vec();
    for (index, byte) in wire.iter_mut().enumerate() {
        let bits = random.get(index / 8 % random.len().max(1)).copied().unwrap_or(0);
        // lengths are no letters
        if bits >> (index % 8) & 1 == 1 {
            byte.make_ascii_uppercase();
        }
    }
    Name::from_wire(&wire).unwrap_or_else(|| name.clone())
}
