//! Headers of both versions, good and bad: what is written is read, nothing is read beyond the
//! header, and nothing that is none is taken for one.

use proptest::prelude::*;

use super::*;

const AFTER: &[u8] = b"\x16\x03\x01what follows";

/// What is read from these bytes, and what is left of them.
fn read_from(bytes: &[u8]) -> (io::Result<Header>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut stream = bytes;
        let header = read(&mut stream).await;
        (header, stream.to_vec())
    })
}

fn good(bytes: &[u8]) -> Header {
    let all = [bytes, AFTER].concat();
    let (header, rest) = read_from(&all);
    assert_eq!(rest, AFTER, "nothing is read beyond {bytes:?}");
    header.unwrap_or_else(|error| panic!("{bytes:?}: {error}"))
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("is short").to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

fn source(text: &str) -> Header {
    Header { source: Some(text.parse().expect("an address")), ..Header::default() }
}

#[test]
fn version_1() {
    assert_eq!(good(b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n"), source("192.0.2.1:56324"));
    assert_eq!(good(b"PROXY TCP6 2001:db8::1 ::1 1 443\r\n"), source("[2001:db8::1]:1"));
    assert_eq!(good(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 443\r\n"), source("192.0.2.1:1"));
    assert_eq!(good(b"PROXY UNKNOWN\r\n"), Header::default());
    assert_eq!(good(b"PROXY UNKNOWN ffff:f...f:ffff ::1 65535 65535\r\n"), Header::default());
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    good(longest.as_bytes());
    for bad in [
        "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +5 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 01 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 70000 443\r\n",
        "PROXY TCP4 2001:db8::1 ::1 1 443\r\n",
        "PROXY TCP6 192.0.2.1 10.0.0.1 1 443\r\n",
        "PROXY TCP4 192.0.2.1  10.0.0.1 1 443\r\n",
        "PROXY UDP4 192.0.2.1 10.0.0.1 1 443\r\n",
        "proxy TCP4 192.0.2.1 10.0.0.1 1 443\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 443\n\n",
        "GET / HTTP/1.1\r\n\r\n",
        "\r\n\r\n\0\r\nQUIX\n0000",
    ] {
        let bytes = [bad.as_bytes(), &[b'x'; 200]].concat();
        assert!(read_from(&bytes).0.is_err(), "{bad:?}");
    }
}

#[test]
fn version_2() {
    let four = [192, 0, 2, 1, 10, 0, 0, 1, 0xDC, 4, 1, 0xBB];
    assert_eq!(good(&v2(PROXY, TCP4, &four)), source("192.0.2.1:56324"));
    let additions = [0x04, 0, 2, 9, 9, 0xE0, 0, 0];
    assert_eq!(
        good(&v2(PROXY, TCP4, &[&four[..], &additions].concat())),
        source("192.0.2.1:56324")
    );
    // A load balancer's own health check.
    assert_eq!(good(&v2(LOCAL, 0, b"")), Header::default());
    assert_eq!(good(&v2(LOCAL, TCP4, &four)), Header::default());
    // Unspecified, datagrams and unix sockets say nothing about a client.
    assert_eq!(good(&v2(PROXY, 0, b"anything")), Header::default());
    assert_eq!(good(&v2(PROXY, 0x12, &four)), Header::default());
    assert_eq!(good(&v2(PROXY, 0x31, &[1; 216])), Header::default());
    for bad in [
        v2(0x11, TCP4, &four),
        v2(0x22, TCP4, &four),
        v2(PROXY, 0x41, &four),
        v2(PROXY, 0x13, &four),
        v2(PROXY, TCP4, &four[..11]),
        v2(PROXY, TCP6, &four),
        v2(PROXY, 0x31, &[1; 215]),
        v2(PROXY, TCP4, &[&four[..], &[4, 0]].concat()),
        v2(PROXY, TCP4, &[&four[..], &[4, 0, 9, 1]].concat()),
        v2(PROXY, TCP4, &[&four[..], &[VERSION, 0, 2, 1, 1]].concat()),
        v2(PROXY, 0, &[0; LONGEST_REST + 1]),
    ] {
        assert!(read_from(&[&bad[..], &[0; 5_000]].concat()).0.is_err(), "{bad:?}");
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        from in address(),
        to in address(),
        relayed: bool,
        version: Option<i64>,
    ) {
        let written = header(from, to, relayed, version);
        prop_assert_eq!(good(&written), Header { source: Some(from), relayed, version });
        // Cut anywhere it is no header yet, and never an error.
        for cut in 0..written.len() {
            let Ok(Progress::Needs(more)) = progress(&written[..cut]) else {
                panic!("{cut} bytes of {written:?}")
            };
            prop_assert!(more > 0 && cut + more <= written.len());
        }
    }

    #[test]
    fn a_line_is_never_read_beyond_its_end(rest in "[ -~]{0,110}") {
        let all = format!("PROXY {rest}\r\nGET / HTTP/1.1\r\n\r\n");
        let (header, left) = read_from(all.as_bytes());
        if header.is_ok() {
            prop_assert_eq!(left, b"GET / HTTP/1.1\r\n\r\n");
        }
    }

    #[test]
    fn no_bytes_confuse_it(start in 0_usize..3, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let begin: &[u8] = [&b""[..], &SIGNATURE, b"PROXY TCP4 "][start];
        let all = [begin, &bytes].concat();
        let (_, left) = read_from(&all);
        prop_assert!(all.ends_with(&left));
    }
}
