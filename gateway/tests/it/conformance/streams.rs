//! How a connection begins, and what streams go through (RFC 9113 §3.4 and §5).

use super::{
    Case, case, from_the_start,
    wire::{
        CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, PRIORITY, PROTOCOL_ERROR,
        REFUSED_STREAM, STREAM_CLOSED, WHOLE, WITH_PRIORITY, asks, block, frame, get, rst_stream, settings,
        window_update,
    },
};

/// That the server allows on one connection.
const MAX_STREAMS: u32 = 200;

pub(super) fn table() -> Vec<Case> {
    let mut all = beginnings();
    all.extend(idle());
    all.extend(half_closed());
    all.extend(closed());
    all.extend(numbers());
    all.extend(priorities());
    all
}

fn beginnings() -> Vec<Case> {
    vec![
        from_the_start("RFC 9113 §3.4", "all that begins a connection, and a request, at once")
            .send([PREFACE, &settings(&[]), &get(1, "/")].concat())
            .answers(1, 200),
        from_the_start("RFC 9113 §3.4", "a preface that is none")
            .send([b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &settings(&[])[..], &get(1, "/")].concat())
            .ends(&[PROTOCOL_ERROR]),
        from_the_start("RFC 9113 §3.4", "no preface").send([settings(&[]), get(1, "/")].concat()).ends(&[PROTOCOL_ERROR]),
        from_the_start("RFC 9113 §3.4", "a request before any settings")
            .send([PREFACE, &get(1, "/"), &settings(&[])].concat())
            .ends(&[PROTOCOL_ERROR]),
        from_the_start("RFC 9113 §3.4", "a PING before any settings")
            .send([PREFACE, &frame(super::PING, 0, 0, [0; 8]), &settings(&[])].concat())
            .ends(&[PROTOCOL_ERROR]),
        from_the_start("RFC 9113 §3.4", "an acknowledgement before any settings")
            .send([PREFACE, &frame(super::SETTINGS, super::ACK, 0, [])].concat())
            .ends(&[PROTOCOL_ERROR]),
        from_the_start("RFC 9113 §3.1", "HTTP/1.1 asked to become HTTP/2, which is no way any longer")
            .send("GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n")
            .send([PREFACE, &settings(&[])].concat())
            .ends(&[]),
    ]
}

fn idle() -> Vec<Case> {
    let trailers = || block(&[("x-a", "1")]);
    vec![
        case("RFC 9113 §5.1", "DATA of an idle stream").send(frame(DATA, END_STREAM, 1, b"x")).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1", "RST_STREAM of an idle stream").send(rst_stream(1, CANCEL)).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1", "WINDOW_UPDATE of an idle stream").send(window_update(1, 9)).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1", "CONTINUATION of an idle stream")
            .send(frame(CONTINUATION, END_HEADERS, 1, trailers()))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1", "DATA of an idle stream of the server's")
            .send(frame(DATA, 0, 2, b"x"))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1", "WINDOW_UPDATE of an idle stream of the server's")
            .send(window_update(2, 9))
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1.1", "a new stream closes the idle ones before it")
            .send(get(5, "/"))
            .answered(5)
            .send(frame(DATA, END_STREAM, 3, b"x"))
            .resets_or_ends(3, &[STREAM_CLOSED, PROTOCOL_ERROR]),
    ]
}

/// The client has said all that it would say.
fn half_closed() -> Vec<Case> {
    let said = || get(1, "/held");
    vec![
        case("RFC 9113 §5.1", "DATA behind the end of a request")
            .send(said())
            .send(frame(DATA, END_STREAM, 1, b"x"))
            .resets_or_ends_as_h2_says(1, STREAM_CLOSED),
        case("RFC 9113 §5.1", "HEADERS behind the end of a request")
            .send(said())
            .send(get(1, "/"))
            .resets_or_ends_as_h2_says(1, STREAM_CLOSED),
        case("RFC 9113 §5.1", "CONTINUATION behind the end of a request")
            .send(said())
            .send(frame(CONTINUATION, END_HEADERS, 1, block(&[("x-a", "1")])))
            .resets_or_ends(1, &[STREAM_CLOSED, PROTOCOL_ERROR]),
        case("RFC 9113 §5.1", "WINDOW_UPDATE and PRIORITY behind the end of a request")
            .send([said(), window_update(1, 9), frame(PRIORITY, 0, 1, [0, 0, 0, 0, 1])].concat())
            .goes_on(3),
        case("RFC 9113 §5.1", "RST_STREAM behind the end of a request")
            .send(said())
            .send(rst_stream(1, CANCEL))
            .goes_on(3),
    ]
}

fn closed() -> Vec<Case> {
    let over = || case("RFC 9113 §5.1", "").send(get(1, "/")).answered(1);
    let taken_back = || case("RFC 9113 §5.1", "").send([get(1, "/held"), rst_stream(1, CANCEL)].concat());
    let named = |what, case: Case| Case { what, ..case };
    let trailers = || block(&[("x-a", "1")]);
    let codes = [STREAM_CLOSED, PROTOCOL_ERROR];
    vec![
        named("DATA of a stream that is over", over().send(frame(DATA, END_STREAM, 1, b"x"))).resets_or_ends(1, &codes),
        named("HEADERS of a stream that is over", over().send(get(1, "/"))).resets_or_ends(1, &codes),
        named("CONTINUATION of a stream that is over", over().send(frame(CONTINUATION, END_HEADERS, 1, trailers())))
            .resets_or_ends(1, &codes),
        named("PRIORITY of a stream that is over", over().send(frame(PRIORITY, 0, 1, [0, 0, 0, 0, 1]))).goes_on(3),
        named(
            "WINDOW_UPDATE of a stream that is over, as it may have crossed the end",
            over().send(window_update(1, 9)),
        )
        .goes_on(3),
        named("RST_STREAM of a stream that is over, too", over().send(rst_stream(1, CANCEL))).goes_on(3),
        named("DATA of a stream that was taken back", taken_back().send(frame(DATA, END_STREAM, 1, b"x")))
            .resets_or_ends(1, &codes),
        named("HEADERS of a stream that was taken back", taken_back().send(get(1, "/"))).resets_or_ends(1, &codes),
        named(
            "CONTINUATION of a stream that was taken back",
            taken_back().send(frame(CONTINUATION, END_HEADERS, 1, trailers())),
        )
        .resets_or_ends(1, &codes),
        named("PRIORITY of a stream that was taken back", taken_back().send(frame(PRIORITY, 0, 1, [0, 0, 0, 0, 1])))
            .goes_on(3),
        case("RFC 9113 §5.4.2", "what was on its way to a stream that the server has reset is passed over")
            .send(frame(HEADERS, END_HEADERS, 1, asks("POST", "/", &[("connection", "close")])))
            .after(|frame| frame.kind == super::RST_STREAM && frame.stream == 1)
            .send([frame(DATA, 0, 1, b"x"), window_update(1, 9), frame(DATA, END_STREAM, 1, b"x")].concat())
            .goes_on(3),
    ]
}

fn numbers() -> Vec<Case> {
    let many = |count: u32| (0..count).flat_map(|n| get(2 * n + 1, "/held")).collect::<Vec<_>>();
    vec![
        case("RFC 9113 §5.1.1", "a stream of an even number").send(get(2, "/")).ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1.1", "a number below the last one")
            .send([get(5, "/held"), get(3, "/")].concat())
            .ends(&[PROTOCOL_ERROR]),
        case("RFC 9113 §5.1.1", "numbers may be left out")
            .send(get(0x7fff_fffd, "/"))
            .answered(0x7fff_fffd)
            .send(get(0x7fff_ffff, "/"))
            .answers(0x7fff_ffff, 200),
        case("RFC 9113 §5.1.2", "a stream more than are allowed")
            .send(many(MAX_STREAMS + 1))
            .resets_or_ends(2 * MAX_STREAMS + 1, &[REFUSED_STREAM, PROTOCOL_ERROR]),
        case("RFC 9113 §5.1.2", "one again once another is over")
            .send([many(MAX_STREAMS), rst_stream(1, CANCEL)].concat())
            .goes_on(2 * MAX_STREAMS + 1),
    ]
}

/// What RFC 7540 said of dependencies is passed over or kept to (RFC 9113 §5.3.2): nothing else comes of it.
fn priorities() -> Vec<Case> {
    let on_itself = || [&[0, 0, 0, 1, 15][..], &asks("GET", "/", &[])].concat();
    vec![
        case("RFC 7540 §5.3.1", "a head that depends on itself")
            .send(frame(HEADERS, WHOLE | WITH_PRIORITY, 1, on_itself()))
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
        case("RFC 7540 §5.3.1", "PRIORITY of an open stream that depends on itself")
            .send([get(1, "/held"), frame(PRIORITY, 0, 1, [0, 0, 0, 1, 15])].concat())
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
    ]
}
