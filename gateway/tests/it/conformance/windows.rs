//! Flow control (RFC 9113 §5.2 and §6.9): what the server keeps to, and what it asks of clients.

use super::{
    Case, Outcome, Scene, Way, case, observe,
    wire::{
        ACK, CANCEL, DATA, END_STREAM, FLOW_CONTROL_ERROR, Frame, HEADERS, SETTINGS, Wire, frame, get, post, settings,
        window_update,
    },
};

const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
/// The largest that a window may be.
const MOST: u32 = (1 << 31) - 1;
/// What the server lets a stream send, and a connection.
const STREAM_WINDOW: usize = 256 * 1024;
const CONNECTION_WINDOW: usize = 1024 * 1024;

pub(super) fn table() -> Vec<Case> {
    let open = || get(1, "/held");
    vec![
        case("RFC 9113 §6.9.1", "a window for all beyond 2^31-1")
            .send(window_update(0, MOST))
            .ends_as_h2_says(FLOW_CONTROL_ERROR),
        case("RFC 9113 §6.9.1", "the same in two steps")
            .send([window_update(0, MOST - 65_535), window_update(0, 1)].concat())
            .ends_as_h2_says(FLOW_CONTROL_ERROR),
        case("RFC 9113 §6.9.1", "just as much as may be").send(window_update(0, MOST - 65_535)).goes_on(1),
        case("RFC 9113 §6.9.1", "a stream's window beyond 2^31-1")
            .send([open(), window_update(1, MOST)].concat())
            .resets_or_ends(1, &[FLOW_CONTROL_ERROR]),
        case("RFC 9113 §6.9.2", "a window that settings raise beyond 2^31-1")
            .send([open(), window_update(1, MOST - 65_535), settings(&[(INITIAL_WINDOW_SIZE, 65_536)])].concat())
            .ends_as_h2_says(FLOW_CONTROL_ERROR),
        case("RFC 9113 §6.9.1", "more than a stream may send")
            .send(post(1, "/held", &[]))
            .send(body(1, STREAM_WINDOW))
            .send(frame(DATA, 0, 1, [0]))
            .resets_or_ends(1, &[FLOW_CONTROL_ERROR]),
        case("RFC 9113 §6.9.1", "padding counts")
            .send(post(1, "/held", &[]))
            .send(body(1, STREAM_WINDOW - 200))
            .send(frame(DATA, super::wire::PADDED, 1, [&[250][..], &[0; 250]].concat()))
            .resets_or_ends(1, &[FLOW_CONTROL_ERROR]),
        case("RFC 9113 §6.9.1", "more than a connection may send")
            .send(
                (0..5)
                    .flat_map(|n| [post(2 * n + 1, "/held", &[]), body(2 * n + 1, 250_000)].concat())
                    .collect::<Vec<_>>(),
            )
            .ends(&[FLOW_CONTROL_ERROR]),
    ]
}

/// So many bytes of a body, and no end.
fn body(stream: u32, length: usize) -> Vec<u8> {
    let content = vec![b'x'; length];
    content.chunks(16_384).flat_map(|content| frame(DATA, 0, stream, content)).collect()
}

/// What comes of a stream's body until nothing more may: a PING tells when. And whether that was its end.
async fn content(wire: &mut Wire, stream: u32) -> (usize, bool) {
    wire.send(&frame(super::PING, 0, 0, *b"all here")).await;
    let (mut length, mut ended) = (0, false);
    loop {
        let Frame { kind, flags, stream: of, payload } = wire.next().await.expect("the connection lives on");
        match kind {
            super::PING if flags & ACK != 0 => return (length, ended),
            super::RST_STREAM | super::GOAWAY => panic!("{kind} {payload:02x?}"),
            DATA if of == stream => {
                assert!(payload.len() <= 16_384, "{} bytes in one frame", payload.len());
                length += payload.len();
                ended |= flags & END_STREAM != 0;
            }
            _ => {}
        }
    }
}

/// So much of it, however many PINGs that takes.
async fn comes(wire: &mut Wire, stream: u32, wanted: usize) -> bool {
    let (mut length, mut ended) = content(wire, stream).await;
    while length < wanted {
        let (more, is_end) = content(wire, stream).await;
        (length, ended) = (length + more, ended | is_end);
    }
    let (more, is_end) = content(wire, stream).await;
    assert_eq!(length + more, wanted, "no more than there is a window for");
    ended | is_end
}

async fn head(wire: &mut Wire, stream: u32) {
    let head = wire.until("an answer's head", |frame| frame.kind == HEADERS && frame.stream == stream).await;
    assert_eq!((head.status(), head.ends_stream()), (200, false));
}

/// A connection whose streams have so small a window.
async fn narrow(scene: &Scene, window: u32) -> Wire {
    let mut wire = scene.connect(Way::Clear).await;
    wire.begin(&[(super::HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, window)]).await;
    wire.until("its settings are taken", |frame| frame.kind == SETTINGS && frame.flags & ACK != 0).await;
    wire
}

#[tokio::test]
async fn windows_have_bounds() {
    Scene::set().await.run(Way::Clear, table()).await;
}

#[tokio::test]
async fn an_answer_waits_for_a_window_of_its_stream() {
    let scene = Scene::set().await;
    let mut wire = narrow(&scene, 0).await;
    wire.send(&get(1, "/")).await;
    head(&mut wire, 1).await;
    assert!(!comes(&mut wire, 1, 0).await);
    wire.send(&window_update(1, 1)).await;
    assert!(!comes(&mut wire, 1, 1).await);
    wire.send(&window_update(1, 2)).await;
    assert!(!comes(&mut wire, 1, 2).await);
    wire.send(&window_update(1, 9)).await;
    assert!(comes(&mut wire, 1, 1).await, "`fine` has four bytes");
}

#[tokio::test]
async fn settings_change_the_windows_of_streams_that_are_open_even_below_nothing() {
    let scene = Scene::set().await;
    let mut wire = narrow(&scene, 10).await;
    wire.send(&get(1, "/large")).await;
    head(&mut wire, 1).await;
    assert!(!comes(&mut wire, 1, 10).await);
    wire.send(&settings(&[(INITIAL_WINDOW_SIZE, 15)])).await;
    assert!(!comes(&mut wire, 1, 5).await);
    wire.send(&settings(&[(INITIAL_WINDOW_SIZE, 5)])).await; // ten below nothing
    assert!(!comes(&mut wire, 1, 0).await);
    wire.send(&window_update(1, 10)).await;
    assert!(!comes(&mut wire, 1, 0).await);
    wire.send(&window_update(1, 3)).await;
    assert!(!comes(&mut wire, 1, 3).await);
    // Of two values in one frame the last one counts (§6.5.3).
    wire.send(&settings(&[(INITIAL_WINDOW_SIZE, 50_000), (INITIAL_WINDOW_SIZE, 25)])).await;
    assert!(!comes(&mut wire, 1, 20).await);
    wire.send(&window_update(1, MOST - 100)).await;
    // From here it is the connection's that is waited for.
    assert!(!comes(&mut wire, 1, 65_535 - 38).await);
    wire.send(&window_update(0, 1)).await;
    assert!(!comes(&mut wire, 1, 1).await);
    wire.send(&window_update(0, 100_000)).await;
    assert!(comes(&mut wire, 1, 100_000 - 65_536).await);
}

#[tokio::test]
async fn frames_are_no_larger_than_a_client_takes_whatever_more_it_would() {
    let scene = Scene::set().await;
    let mut wire = narrow(&scene, 1 << 20).await;
    wire.send(&[settings(&[(MAX_FRAME_SIZE, 16_384)]), window_update(0, 1 << 20), get(1, "/large")].concat()).await;
    head(&mut wire, 1).await;
    assert!(comes(&mut wire, 1, 100_000).await);
}

#[tokio::test]
async fn a_shut_stream_does_not_stop_another() {
    let scene = Scene::set().await;
    let mut wire = narrow(&scene, 0).await;
    wire.send(&[get(1, "/large"), get(3, "/"), window_update(3, 4)].concat()).await;
    assert_eq!(observe(&mut wire, 3).await, Outcome::Answered(3, 200));
    // The first is still there, and is let go when it is not wanted.
    wire.send(&super::wire::rst_stream(1, CANCEL)).await;
    wire.send(&[get(5, "/"), window_update(5, 4)].concat()).await;
    assert_eq!(observe(&mut wire, 5).await, Outcome::Answered(5, 200));
}

#[tokio::test]
async fn a_body_that_is_read_is_given_room_for_more_and_so_is_one_that_nobody_wants() {
    let scene = Scene::set().await;
    for path in ["/up", "/nowhere"] {
        let mut wire = scene.begun(Way::Clear).await;
        let length = 2 * CONNECTION_WINDOW;
        wire.send(&post(1, path, &[("content-length", &length.to_string())])).await;
        let (mut stream, mut connection, mut left) = (STREAM_WINDOW, 65_535, length);
        while left > 0 {
            let now = left.min(stream).min(connection).min(16_384);
            if now > 0 {
                let flags = if now == left { END_STREAM } else { 0 };
                wire.send(&frame(DATA, flags, 1, vec![b'x'; now])).await;
                (stream, connection, left) = (stream - now, connection - now, left - now);
                continue;
            }
            let frame = wire.next().await.expect("the connection lives on");
            match (frame.kind, frame.stream) {
                (super::wire::WINDOW_UPDATE, 0) => connection += usize::try_from(frame.number(0)).unwrap(),
                (super::wire::WINDOW_UPDATE, 1) => stream += usize::try_from(frame.number(0)).unwrap(),
                (HEADERS, 1) if path == "/nowhere" => assert_eq!(frame.status(), 404),
                (super::RST_STREAM | super::GOAWAY | HEADERS, _) => panic!("{frame:?}"),
                _ => {}
            }
        }
        wire.send(&get(3, "/")).await;
        assert_eq!(observe(&mut wire, 3).await, Outcome::Answered(3, 200), "{path}");
    }
}
