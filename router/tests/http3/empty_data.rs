//! DATA frames with nothing in them, which say nothing (RFC 9114 section 7.2.1), and with next to
//! nothing. By hand: the client's library would not send them.

use quinn::{RecvStream, SendStream, VarInt};

use crate::{A, connect, http3_client::Http3, stack::Stack};

const NOTHING: [u8; 2] = [0x00, 0x00];
/// The same with numbers that are longer than they need to be.
const LONG_NOTHING: [u8; 6] = [0x40, 0x00, 0x80, 0x00, 0x00, 0x00];
const FRAME_UNEXPECTED: u32 = 0x105;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("is short");
    assert!(length < 0x4000, "fits into two bytes");
    let mut frame = vec![kind];
    frame.extend((length | 0x4000).to_be_bytes());
    frame.extend(payload);
    frame
}

fn data(text: &str) -> Vec<u8> {
    frame(0x00, text.as_bytes())
}

/// HEADERS of a POST. Names are those of the static table of QPACK, values as they are.
fn head(path: &str, length: Option<&str>) -> Vec<u8> {
    let mut fields = vec![0x00, 0x00, 0xd4, 0xd7];
    let values = [(0x50, Some(A)), (0x51, Some(path)), (0x54, length)];
    for (name, value) in values.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        fields.extend([name, u8::try_from(value.len()).expect("is short")]);
        fields.extend(value.as_bytes());
    }
    frame(0x01, &fields)
}

async fn begin(client: &Http3, frames: &[&[u8]]) -> (SendStream, RecvStream) {
    let (mut send, receive) = client.quic.open_bi().await.expect("opens");
    send.write_all(&frames.concat()).await.expect("writes");
    (send, receive)
}

/// What is in the DATA frames of an answer.
async fn body(mut receive: RecvStream) -> String {
    let answer = receive.read_to_end(10_000).await.expect("answers");
    let (mut rest, mut body) = (&answer[..], Vec::new());
    while let [kind, length, more @ ..] = rest {
        // Numbers of one byte, or of two.
        let (length, more) = match (length >> 6, more) {
            (0, _) => (usize::from(*length), more),
            (1, [low, more @ ..]) => (usize::from(*length & 0x3f) << 8 | usize::from(*low), more),
            _ => panic!("is short: {answer:?}"),
        };
        let (payload, more) = more.split_at(length);
        if *kind == 0x00 {
            body.extend(payload);
        }
        rest = more;
    }
    String::from_utf8(body).expect("is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_data_is_nothing() {
    let stack = Stack::start_with_http3(serde_json::json!({})).await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let client = connect(&stack, A).await;
    let (one, two) = (data("one"), data("two"));

    for length in [None, Some("6")] {
        let head = head("/echo", length);
        let frames = [&*head, &NOTHING, &one, &LONG_NOTHING, &NOTHING, &two, &NOTHING];
        let (mut send, receive) = begin(&client, &frames).await;
        send.finish().expect("ends");
        assert_eq!(body(receive).await, "onetwo", "{length:?}");
    }
    // Nothing else: a body all the same, of no length.
    for length in [None, Some("0")] {
        let (mut send, receive) = begin(&client, &[&head("/echo", length), &NOTHING]).await;
        send.finish().expect("ends");
        assert_eq!(body(receive).await, "", "{length:?}");
    }
    // In front of trailers, of which one is `x-sum: 7`.
    let trailers = frame(0x01, b"\x00\x00\x25x-sum\x017");
    let (mut send, receive) =
        begin(&client, &[&head("/trailers", None), &one, &NOTHING, &trailers]).await;
    send.finish().expect("ends");
    assert_eq!(body(receive).await, "x-sum: 7");

    // Its two bytes come apart: the first was read when what is before it is answered.
    let (mut send, mut receive) = begin(&client, &[&head("/echo", None), &one, &[0x00]]).await;
    let mut came = Vec::new();
    while !came.ends_with(b"one") {
        let chunk = receive.read_chunk(1_000, true).await.expect("reads").expect("is not the end");
        came.extend_from_slice(&chunk.bytes);
    }
    send.write_all(&[&[0x00], &*two].concat()).await.expect("writes");
    send.finish().expect("ends");
    assert_eq!(body(receive).await, "two");
    // A stream that ends inside a frame is cut, and no whole request.
    let (mut send, mut receive) = begin(&client, &[&head("/write", None), &one, &[0x00]]).await;
    send.finish().expect("ends");
    let cut = receive.read_to_end(10_000).await;
    assert!(cut.is_err() || client.quic.close_reason().is_some(), "{cut:?}");

    // Where no DATA may stand it may not stand empty either.
    let mut client = connect(&stack, A).await;
    let _asked = begin(&client, &[&NOTHING, &head("/echo", None)]).await;
    let quinn::ConnectionError::ApplicationClosed(close) = client.closed().await else {
        panic!("closed without a word")
    };
    assert_eq!(close.error_code, VarInt::from_u32(FRAME_UNEXPECTED));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_body_in_crumbs_fills_no_memory() {
    const CRUMBS: usize = 20_000;
    const BESIDE: usize = 1_100;
    let stack = Stack::start_with_http3(serde_json::json!({})).await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let client = connect(&stack, A).await;
    assert_eq!(body_of_nothing(&client).await, "");
    // The instance counts what came, and answers at the end; a frame that nobody needs is beside each
    // byte.
    let before = stack.resident_bytes();
    let crumb = [data("x"), frame(0x21, &[0; BESIDE])].concat();
    let (mut send, receive) = begin(&client, &[&head("/sink", None)]).await;
    for _ in 0..CRUMBS {
        send.write_all(&crumb).await.expect("writes");
    }
    while a.instance.sunk_bytes() < CRUMBS as u64 {
        tokio::task::yield_now().await;
    }
    let grown = stack.resident_bytes().saturating_sub(before);
    assert!(grown < (CRUMBS * BESIDE / 2) as u64, "{grown} bytes are kept");
    send.finish().expect("ends");
    assert_eq!(body(receive).await, CRUMBS.to_string());
}

async fn body_of_nothing(client: &Http3) -> String {
    let (mut send, receive) = begin(client, &[&head("/echo", None)]).await;
    send.finish().expect("ends");
    body(receive).await
}
