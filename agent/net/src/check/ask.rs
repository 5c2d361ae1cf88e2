//! One question to a DNS server, as a pod would ask it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use super::probe;
use crate::dns::{
    message::{self, Class, Flags, Kind, Question, Rcode, Reader},
    name::Name,
};

/// Longest answer by UDP.
const LONGEST: usize = 4096;

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The first address.
    Address(Ipv4Addr),
    /// That there is none, and why, in words.
    Other(String),
}

/// Asks for the address of a name.
pub(super) async fn address(server: SocketAddr, name: &str) -> io::Result<Answer> {
    let name = Name::parse(name).map_err(io::Error::other)?;
    let answer = ask(server, name, Kind::A).await?;
    read(&answer).map_err(io::Error::other)
}

/// Asks for the servers of the root, which every resolver knows; any answer will do.
pub(super) async fn root(server: SocketAddr) -> io::Result<()> {
    ask(server, Name::root(), Kind::NS).await.map(drop)
}

async fn ask(server: SocketAddr, name: Name, kind: Kind) -> io::Result<Vec<u8>> {
    let socket = probe::socket(server).await?;
    let question = Question {
        name,
        kind,
        class: Class::IN,
    };
    // the socket takes datagrams of this server only, and nothing depends on the answer's being true
    let id = socket.local_addr()?.port();
    let mut query = Vec::new();
    message::query(&mut query, id, Flags(Flags::RECURSION_DESIRED), &question, false);
    socket.send(&query).await?;
    let mut answer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        let header = Reader::new(&answer[..length]).header();
        if header.is_ok_and(|header| header.id == id && header.flags.has(Flags::RESPONSE)) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

fn read(answer: &[u8]) -> Result<Answer, message::Malformed> {
    let mut reader = Reader::new(answer);
    let header = reader.header()?;
    for _ in 0..header.counts[0] {
        reader.question()?;
    }
    for _ in 0..header.counts[1] {
        let record = reader.record()?;
        if let (Kind::A, Ok(octets)) = (record.kind, <[u8; 4]>::try_from(record.data)) {
            return Ok(Answer::Address(octets.into()));
        }
    }
    Ok(Answer::Other(match header.flags.rcode() {
        Rcode::NOERROR => "has no address".into(),
        Rcode::NXDOMAIN => "does not exist".into(),
        Rcode::SERVFAIL => "the server could not find out".into(),
        Rcode::REFUSED => "the server refuses to say".into(),
        Rcode(other) => format!("the server says code {other}"),
    }))
}
