//! The PROXY protocol, versions 1 and 2: how a load balancer in front, or another region's router,
//! says whose connection it passes on. Reading never takes a byte beyond the header, whatever comes;
//! what follows belongs to somebody else.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// No header of either version is shorter.
const SHORTEST: usize = SIGNATURE.len();
/// The longest header of version 1, with its line end.
const LONGEST_LINE: usize = 107;
/// The fixed part of version 2.
const FIXED: usize = SIGNATURE.len() + 4;
/// The longest rest of a header of version 2 that is read, in bytes: addresses and additions.
const LONGEST_REST: usize = 4_096;
/// The type of the addition by which routers say that they decrypted what they pass on. From the
/// range that is left to applications.
const RELAYED: u8 = 0xE7;
/// The same for the version of the site by which a router decided where the connection goes.
const VERSION: u8 = 0xE8;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// A socket path of each end.
const UNIX_BYTES: usize = 216;

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is; none when the sender speaks for itself or does not know.
    pub source: Option<SocketAddr>,
    /// Whether a router decrypted the connection and speaks for the client.
    pub relayed: bool,
    /// The version of the site by which a router sent the connection here.
    pub version: Option<i64>,
}

/// Why something is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It begins as neither version does.
    #[error("the connection does not begin with a PROXY header")]
    NoHeader,
    /// A line of version 1 that is none.
    #[error("the PROXY line is malformed")]
    Line,
    /// Version 2 with a version, command or family that there is not.
    #[error("the PROXY header has an unknown version, command or family")]
    Unknown,
    /// Its length does not fit what it says it holds, or is more than is read.
    #[error("the PROXY header has a wrong length")]
    Length,
}

/// How reading goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes more belong to the header.
    Needs(usize),
    /// The header is complete.
    Done(Header),
}

/// Looks at the bytes read so far.
///
/// # Errors
/// When they are not the beginning of a header.
pub fn progress(read: &[u8]) -> Result<Progress, HeaderError> {
    let known = read.len().min(SHORTEST);
    if read[..known] == SIGNATURE[..known] && known > 0 {
        return binary(read);
    }
    let word = known.min(WORD.len());
    if read[..word] != WORD[..word] {
        return Err(HeaderError::NoHeader);
    }
    if read.len() < SHORTEST {
        return Ok(Progress::Needs(SHORTEST - read.len()));
    }
    if read.ends_with(b"\r\n") {
        return line(&read[..read.len() - 2]).map(Progress::Done);
    }
    // The line's end may be the very next bytes.
    match read.len() {
        length if length >= LONGEST_LINE => Err(HeaderError::Line),
        length if read.ends_with(b"\r") || length + 1 == LONGEST_LINE => Ok(Progress::Needs(1)),
        _ => Ok(Progress::Needs(2)),
    }
}

fn binary(read: &[u8]) -> Result<Progress, HeaderError> {
    let Some((fixed, rest)) = read.split_at_checked(FIXED) else {
        return Ok(Progress::Needs(FIXED - read.len()));
    };
    let (command, family) = (fixed[12], fixed[13]);
    if !matches!(command, LOCAL | PROXY) || family & 0x0F > 2 || family >> 4 > 3 {
        return Err(HeaderError::Unknown);
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > LONGEST_REST {
        return Err(HeaderError::Length);
    }
    if rest.len() < length {
        return Ok(Progress::Needs(length - rest.len()));
    }
    let rest = &rest[..length];
    if command == LOCAL {
        return Ok(Progress::Done(Header::default()));
    }
    let (source, additions) = addresses(family, rest)?;
    let relayed = addition(additions, RELAYED)?.is_some();
    let version = match addition(additions, VERSION)? {
        Some(value) => Some(value.try_into().map_err(|_| HeaderError::Length)?),
        None => None,
    };
    Ok(Progress::Done(Header { source, relayed, version: version.map(i64::from_be_bytes) }))
}

/// The client's address, and what follows the addresses.
fn addresses(family: u8, rest: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), HeaderError> {
    let split = |length| rest.split_at_checked(length).ok_or(HeaderError::Length);
    Ok(match family >> 4 {
        1 => {
            let (both, additions) = split(12)?;
            let ip = Ipv4Addr::new(both[0], both[1], both[2], both[3]);
            let source = SocketAddr::new(ip.into(), u16::from_be_bytes([both[8], both[9]]));
            ((family == TCP4).then_some(source), additions)
        }
        2 => {
            let (both, additions) = split(36)?;
            let mut ip = [0; 16];
            ip.copy_from_slice(&both[..16]);
            let ip = Ipv6Addr::from(ip).to_canonical();
            let source = SocketAddr::new(ip, u16::from_be_bytes([both[32], both[33]]));
            ((family == TCP6).then_some(source), additions)
        }
        3 => (None, split(UNIX_BYTES)?.1),
        // Unspecified: what follows is not looked at.
        _ => (None, &[]),
    })
}

/// The addition of this type; all others are stepped over.
fn addition(mut additions: &[u8], wanted: u8) -> Result<Option<&[u8]>, HeaderError> {
    let mut found = None;
    while let [kind, high, low, rest @ ..] = additions {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, further) = rest.split_at_checked(length).ok_or(HeaderError::Length)?;
        if *kind == wanted && found.is_none() {
            found = Some(value);
        }
        additions = further;
    }
    if additions.is_empty() { Ok(found) } else { Err(HeaderError::Length) }
}

/// Version 1, without its line end.
fn line(line: &[u8]) -> Result<Header, HeaderError> {
    let line = std::str::from_utf8(line).map_err(|_| HeaderError::Line)?;
    let mut words = line.split(' ').skip(1);
    let protocol = words.next();
    if protocol == Some("UNKNOWN") {
        return Ok(Header::default());
    }
    let mut next = || words.next().ok_or(HeaderError::Line);
    let (source, destination) = (next()?, next()?);
    let (source_port, _) = (port(next()?)?, port(next()?)?);
    let [source, destination] = [source, destination].map(|text| text.parse::<IpAddr>().ok());
    let fits = |ip: &IpAddr| match protocol {
        Some("TCP4") => ip.is_ipv4(),
        Some("TCP6") => ip.is_ipv6(),
        _ => false,
    };
    let (Some(source), Some(_)) = (source.filter(fits), destination.filter(fits)) else {
        return Err(HeaderError::Line);
    };
    if words.next().is_some() {
        return Err(HeaderError::Line);
    }
    let source = SocketAddr::new(source.to_canonical(), source_port);
    Ok(Header { source: Some(source), ..Header::default() })
}

/// Digits only, and no zeros before them.
fn port(text: &str) -> Result<u16, HeaderError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().map_err(|_| HeaderError::Line) } else { Err(HeaderError::Line) }
}

/// Reads a header, and not a byte more.
///
/// # Errors
/// When the stream does not begin with one, as `InvalidData`, or fails.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Header> {
    let mut read = Vec::with_capacity(LONGEST_LINE);
    loop {
        let progress =
            progress(&read).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match progress {
            Progress::Done(header) => return Ok(header),
            Progress::Needs(more) => {
                let before = read.len();
                read.resize(before + more, 0);
                stream.read_exact(&mut read[before..]).await?;
            }
        }
    }
}

/// A header of version 2 for a connection from `source` to `destination`; with `relayed` it says that
/// this router decrypted the connection, with `version` by which version of its site it was sent on.
pub fn header(
    source: SocketAddr,
    destination: SocketAddr,
    relayed: bool,
    version: Option<i64>,
) -> Vec<u8> {
    let mut rest = Vec::with_capacity(64);
    let family = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            rest.extend(from.octets());
            rest.extend(to.octets());
            TCP4
        }
        (from, to) => {
            rest.extend(as_v6(from).octets());
            rest.extend(as_v6(to).octets());
            TCP6
        }
    };
    rest.extend(source.port().to_be_bytes());
    rest.extend(destination.port().to_be_bytes());
    if relayed {
        rest.extend([RELAYED, 0, 0]);
    }
    if let Some(version) = version {
        rest.extend([VERSION, 0, 8]);
        rest.extend(version.to_be_bytes());
    }
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let mut header = Vec::with_capacity(FIXED + rest.len());
    header.extend(SIGNATURE);
    header.extend([PROXY, family]);
    header.extend(length.to_be_bytes());
    header.extend(rest);
    header
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests;
