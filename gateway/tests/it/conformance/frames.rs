//! Frames: their lengths, where they may stand, and what may be in them (RFC 9113 §4 and §6).

use super::{
    Case, case,
    wire::{
        ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM,
        FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE,
        RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, WITH_PRIORITY, asks, block, frame, get, post, rst_stream, settings,
        window_update,
    },
};

pub(super) fn table() -> Vec<Case> {
    let mut all = any_frame();
    all.extend(header_blocks());
    all.extend(data_and_headers());
    all.extend(small_frames());
    all.extend(settings_frames());
    all.extend(going_away());
    all
}

/// More than anybody has agreed to.
fn oversize() -> Vec<u8> {
    vec![0; 16_385]
}

/// With so many bytes of padding, said and there.
fn padded(length: u8, content: &[u8]) -> Vec<u8> {
    [&[length], content, &vec![0; usize::from(length)]].concat()
}

fn any_frame() -> Vec<Case> {
    vec![
        case("RFC 9113 §4.1", "a frame of an unknown type is passed over")
            .send(frame(0xee, 0xff, 0, [7; 50]))
            .goes_on(1),
        case("RFC 9113 §4.1", "one on a stream that nobody opened, too").send(frame(0xee, 0, 7, [7; 50])).goes_on(1),
        case("RFC 9113 §4.1", "flags that mean nothing are passed over")
            .send(frame(PING, 0x16, 0, [0; 8]))
            .send(frame(HEADERS, WHOLE | 0xd2, 1, asks("GET", "/", &[])))
            .answers(1, 200),
        case("RFC 9113 §4.1", "the reserved bit of a stream's number is passed over")
            .send(frame(HEADERS, WHOLE, 1 << 31 | 1, asks("GET", "/", &[])))
            .answers(1, 200),
        case("RFC 9113 §4.2", "DATA of 16,384 bytes is taken")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, END_STREAM, 1, vec![0; 16_384]))
            .answers(1, 200),
        case("RFC 9113 §4.2", "DATA of more is not")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, END_STREAM, 1, oversize()))
            .resets_or_ends(1, &[FRAME_SIZE_ERROR]),
        case("RFC 9113 §4.2", "nor are HEADERS").send(frame(HEADERS, WHOLE, 1, oversize())).ends(&[FRAME_SIZE_ERROR]),
        case("RFC 9113 §4.2", "nor are SETTINGS").send(frame(SETTINGS, 0, 0, oversize())).ends(&[FRAME_SIZE_ERROR]),
        case("RFC 9113 §4.2", "nor is what nobody knows, of as much as can be said")
            .send([255, 255, 255, 0xee, 0, 0, 0, 0, 0])
            .ends(&[FRAME_SIZE_ERROR]),
        case("RFC 9218 §7.1", "PRIORITY_UPDATE is one of these").send(frame(0x10, 0, 0, b"\0\0\0\x01u=1")).goes_on(1),
        case("RFC 7838 §4", "so is ALTSVC, which is a server's").send(frame(0x0a, 0, 0, [0; 20])).goes_on(1),
    ]
}

fn header_blocks() -> Vec<Case> {
    let (head, rest) = {
        let mut whole = asks("GET", "/", &[("x-a", "1")]);
        let rest = whole.split_off(15);
        (whole, rest)
    };
    let begins = || frame(HEADERS, END_STREAM, 1, &head);
    vec![
        case("RFC 9113 §6.10", "a block in three frames, cut within a field")
            .send(begins())
            .send(frame(CONTINUATION, 0, 1, &rest[..3]))
            .send(frame(CONTINUATION, END_HEADERS, 1, &rest[3..]))
            .answers(1, 200),
        case("RFC 9113 §6.10", "frames of nothing between them")
            .send(frame(HEADERS, END_STREAM, 1, []))
            .send(frame(CONTINUATION, 0, 1, []))
            .send(frame(CONTINUATION, 0, 1, [head.clone(), rest.clone()].concat()))
            .send(frame(CONTINUATION, END_HEADERS, 1, []))
            .answers(1, 200),
        case("RFC 9113 §4.3", "a PRIORITY within a block")
            .send(begins())
            .send(frame(PRIORITY, 0, 1, [0, 0, 0, 0, 7]))
            .send(frame(CONTINUATION, END_HEADERS, 1, &rest))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.2", "other HEADERS within a block").send(begins()).send(get(3, "/")).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "DATA within a block")
            .send(begins())
            .send(frame(DATA, END_STREAM, 1, b"x"))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.5", "a frame that nobody knows within a block")
            .send(begins())
            .send(frame(0xee, 0, 1, [0; 8]))
            .send(frame(CONTINUATION, END_HEADERS, 1, &rest))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "a CONTINUATION of another stream")
            .send(begins())
            .send(frame(CONTINUATION, END_HEADERS, 3, &rest))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "a CONTINUATION of no stream")
            .send(begins())
            .send(frame(CONTINUATION, END_HEADERS, 0, &rest))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "a CONTINUATION of nothing")
            .send(frame(CONTINUATION, END_HEADERS, 1, block(&[])))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "a CONTINUATION behind a whole block")
            .send(post(1, "/up", &[]))
            .send(frame(CONTINUATION, END_HEADERS, 1, block(&[("x-a", "1")])))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "a CONTINUATION behind the last one")
            .send(begins())
            .send(frame(CONTINUATION, END_HEADERS, 1, &rest))
            .send(frame(CONTINUATION, END_HEADERS, 1, block(&[("x-b", "1")])))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.10", "a CONTINUATION behind DATA")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, 0, 1, b"x"))
            .send(frame(CONTINUATION, END_HEADERS, 1, block(&[("x-a", "1")])))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §10.5", "CONTINUATIONs without an end")
            .send(begins())
            .send(frame(CONTINUATION, 0, 1, block(&[("x-b", "1")])).repeat(5_000))
            .ends(&[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR]),
        case("RFC 9113 §10.5", "CONTINUATIONs of nothing without an end")
            .send(begins())
            .send(frame(CONTINUATION, 0, 1, []).repeat(5_000))
            .ends(&[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR]),
    ]
}

fn data_and_headers() -> Vec<Case> {
    let request = || asks("GET", "/", &[]);
    let by_priority = |on: u32| [&on.to_be_bytes()[..], &[15], &asks("GET", "/", &[])].concat();
    vec![
        case("RFC 9113 §6.1", "a body in some frames, and one of nothing at its end")
            .send(post(1, "/up", &[("content-length", "2")]))
            .send([frame(DATA, 0, 1, b"a"), frame(DATA, 0, 1, b"b"), frame(DATA, END_STREAM, 1, b"")].concat())
            .answers(1, 200),
        case("RFC 9113 §6.1", "padding is no content")
            .send(post(1, "/up", &[("content-length", "2")]))
            .send(frame(DATA, END_STREAM | PADDED, 1, padded(200, b"ab")))
            .answers(1, 200),
        case("RFC 9113 §6.1", "nothing but padding")
            .send(post(1, "/up", &[("content-length", "0")]))
            .send(frame(DATA, END_STREAM | PADDED, 1, padded(255, b"")))
            .answers(1, 200),
        case("RFC 9113 §6.1", "padding as long as its frame")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, END_STREAM | PADDED, 1, [4, 0, 0, 0]))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.1", "padding longer than its frame")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, END_STREAM | PADDED, 1, [255, 0, 0, 0]))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.1", "no room to say how long it is")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, END_STREAM | PADDED, 1, []))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.1", "DATA of no stream").send(frame(DATA, END_STREAM, 0, b"x")).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.2", "HEADERS of no stream").send(frame(HEADERS, WHOLE, 0, request())).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.2", "a padded head")
            .send(frame(HEADERS, WHOLE | PADDED, 1, padded(99, &request())))
            .answers(1, 200),
        case("RFC 9113 §6.2", "padding longer than a head")
            .send(frame(HEADERS, WHOLE | PADDED, 1, [&[255][..], &request()].concat()))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.2", "HEADERS too short for what their flags say")
            .send(frame(HEADERS, WHOLE | WITH_PRIORITY, 1, [0, 0, 0]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.2", "a head with a priority, padded")
            .send(frame(HEADERS, WHOLE | WITH_PRIORITY | PADDED, 1, padded(9, &by_priority(1 << 31))))
            .answers(1, 200),
        case("RFC 9113 §5.3.2", "a priority by a stream that is not there is passed over")
            .send(frame(HEADERS, WHOLE | WITH_PRIORITY, 1, by_priority(99)))
            .answers(1, 200),
        case("RFC 9113 §6.3", "PRIORITY of streams that are idle, of any weight, exclusive or not")
            .send([0, 255].map(|weight| frame(PRIORITY, 0, 9, [0, 0, 0, 0, weight])).concat())
            .send(frame(PRIORITY, 0, 3, [128, 0, 0, 11, 7]))
            .goes_on(1),
        case("RFC 9113 §6.3", "PRIORITY of no stream")
            .send(frame(PRIORITY, 0, 0, [0, 0, 0, 1, 7]))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.3", "PRIORITY of four bytes")
            .send(post(1, "/held", &[]))
            .send(frame(PRIORITY, 0, 1, [0, 0, 0, 0]))
            .resets_or_ends(1, &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        case("RFC 9113 §6.3", "PRIORITY of six bytes")
            .send(post(1, "/held", &[]))
            .send(frame(PRIORITY, 0, 1, [0; 6]))
            .resets_or_ends(1, &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
    ]
}

fn small_frames() -> Vec<Case> {
    let open = || post(1, "/held", &[]);
    let long_promise = || [&[0, 0, 0, 2][..], &asks("GET", "/", &[])].concat();
    vec![
        case("RFC 9113 §6.4", "a stream that is taken back, and another")
            .send(open())
            .send(rst_stream(1, CANCEL))
            .goes_on(3),
        case("RFC 9113 §7", "for a reason that nobody knows")
            .send(open())
            .send(rst_stream(1, super::Code(0xdead_beef)))
            .goes_on(3),
        case("RFC 9113 §6.4", "RST_STREAM of no stream").send(rst_stream(0, CANCEL)).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.4", "RST_STREAM of three bytes")
            .send(open())
            .send(frame(RST_STREAM, 0, 1, [0, 0, 8]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.4", "RST_STREAM of five bytes")
            .send(open())
            .send(frame(RST_STREAM, 0, 1, [0, 0, 0, 8, 0]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.6", "a client that promises")
            .send(open())
            .send(frame(PUSH_PROMISE, END_HEADERS, 1, long_promise()))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.6", "a client that promises on no stream")
            .send(frame(PUSH_PROMISE, END_HEADERS, 0, long_promise()))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.7", "PING comes back").echoes(),
        case("RFC 9113 §6.7", "an answer that nobody asked for").send(frame(PING, ACK, 0, [9; 8])).goes_on(1),
        case("RFC 9113 §6.7", "PING of a stream").send(frame(PING, 0, 1, [0; 8])).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.7", "PING of seven bytes").send(frame(PING, 0, 0, [0; 7])).ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.7", "PING of nine bytes").send(frame(PING, 0, 0, [0; 9])).ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.9", "a window for all").send(window_update(0, 1_000)).goes_on(1),
        case("RFC 9113 §6.9", "a window for all that grows by nothing")
            .send(window_update(0, 0))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.9", "a window of a stream that grows by nothing")
            .send(open())
            .send(window_update(1, 0))
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
        case("RFC 9113 §6.9", "the reserved bit of that is passed over").send(window_update(0, 1 << 31 | 1)).goes_on(1),
        case("RFC 9113 §6.9", "WINDOW_UPDATE of three bytes")
            .send(frame(WINDOW_UPDATE, 0, 0, [0, 0, 1]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.9", "WINDOW_UPDATE of eight bytes")
            .send(frame(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1, 0, 0, 0, 1]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
    ]
}

/// Their numbers in RFC 9113 §6.5.2, and one of RFC 8441.
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

fn settings_frames() -> Vec<Case> {
    vec![
        case("RFC 9113 §6.5.3", "settings are acknowledged, each frame of them")
            .send([settings(&[(MAX_CONCURRENT_STREAMS, 7)]), settings(&[])].concat())
            .taken()
            .taken()
            .goes_on(1),
        case("RFC 9113 §6.5", "SETTINGS of a stream").send(frame(SETTINGS, 0, 1, [])).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.5", "an acknowledgement with content")
            .send(frame(SETTINGS, ACK, 0, [0; 6]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.5", "SETTINGS of five bytes")
            .send(frame(SETTINGS, 0, 0, [0; 5]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
        case("RFC 9113 §6.5.2", "what nobody knows is passed over")
            .send(settings(&[(0, 1), (0x7a7a, u32::MAX), (0xffff, 0)]))
            .taken()
            .goes_on(1),
        case("RFC 9113 §6.5.2", "all at the edge of what they may be")
            .send(settings(&[(ENABLE_PUSH, 1), (INITIAL_WINDOW_SIZE, (1 << 31) - 1), (MAX_FRAME_SIZE, (1 << 24) - 1)]))
            .send(settings(&[(ENABLE_PUSH, 0), (MAX_FRAME_SIZE, 1 << 14), (MAX_HEADER_LIST_SIZE, u32::MAX)]))
            .send(settings(&[(MAX_CONCURRENT_STREAMS, 0), (super::HEADER_TABLE_SIZE, u32::MAX)]))
            .send(settings(&[(super::HEADER_TABLE_SIZE, 0)]))
            .taken()
            .goes_on(1),
        case("RFC 9113 §6.5.2", "ENABLE_PUSH of 2").send(settings(&[(ENABLE_PUSH, 2)])).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.5.2", "INITIAL_WINDOW_SIZE of 2^31")
            .send(settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]))
            .ends_as_h2_says(FLOW_CONTROL_ERROR),
        case("RFC 9113 §6.5.2", "INITIAL_WINDOW_SIZE of all that can be said")
            .send(settings(&[(INITIAL_WINDOW_SIZE, u32::MAX)]))
            .ends_as_h2_says(FLOW_CONTROL_ERROR),
        case("RFC 9113 §6.5.2", "MAX_FRAME_SIZE of 16,383")
            .send(settings(&[(MAX_FRAME_SIZE, (1 << 14) - 1)]))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.5.2", "MAX_FRAME_SIZE of 2^24")
            .send(settings(&[(MAX_FRAME_SIZE, 1 << 24)]))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 8441 §3", "ENABLE_CONNECT_PROTOCOL of 2")
            .send(settings(&[(ENABLE_CONNECT_PROTOCOL, 2)]))
            .ends(&[PROTOCOL_ERROR]),
    ]
}

fn going_away() -> Vec<Case> {
    vec![
        case("RFC 9113 §6.8", "a client that goes is answered first")
            .send([get(1, "/"), frame(GOAWAY, 0, 0, [0; 8])].concat())
            .answers(1, 200),
        case("RFC 9113 §7", "one that goes for a reason that nobody knows, with more to say")
            .send([get(1, "/"), frame(GOAWAY, 0, 0, b"\0\0\0\0\xde\xad\xbe\xefgone for good")].concat())
            .ends(&[]),
        case("RFC 9113 §6.8", "GOAWAY of a stream").send(frame(GOAWAY, 0, 1, [0; 8])).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §6.8", "GOAWAY of seven bytes")
            .send(frame(GOAWAY, 0, 0, [0; 7]))
            .ends_as_h2_says(FRAME_SIZE_ERROR),
    ]
}
