use proptest::prelude::*;

use super::*;

fn frames(chunks: &[&[u8]]) -> (Vec<Bytes>, Bytes) {
    let mut framer = Framer::default();
    let mut out = Vec::new();
    for chunk in chunks {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while let Some(event) = framer.next(&mut chunk).unwrap() {
            out.push(event.bytes);
        }
        assert!(chunk.is_empty());
    }
    (out, framer.rest())
}

fn data(raw: &[u8]) -> Option<String> {
    Event::parse(raw).data.map(|data| String::from_utf8(data.into_owned()).unwrap())
}

fn all_data(chunks: &[&[u8]]) -> Vec<String> {
    frames(chunks).0.iter().filter_map(|event| data(event)).collect()
}

#[test]
fn events_end_at_blank_lines_of_any_kind() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = format!("data: a{end}{end}: note{end}{end}event: x{end}data: b{end}data:c{end}{end}data: cut");
        assert_eq!(all_data(&[stream.as_bytes()]), ["a", "b\nc"], "{end:?}");
    }
}

#[test]
fn a_byte_order_mark_comments_and_unknown_fields_are_skipped() {
    assert_eq!(data(b"\xef\xbb\xbfdata: a\n\n").as_deref(), Some("a"));
    let cut_in_a_line_break: [&[u8]; 2] = [b"data: a\r\n\r", b"\n\xef\xbb\xbfdata: b\n\n"];
    assert_eq!(all_data(&cut_in_a_line_break), ["a", "b"]);
    assert_eq!(data(b": ping\nid: 7\nretry: 3\nfoo\n\n"), None);
    assert_eq!(data(b"data\n\n").as_deref(), Some(""));
    assert_eq!(data(b"data:  two\n\n").as_deref(), Some(" two"));
    assert_eq!(data(b"dataset: x\n\n"), None);
}

#[test]
fn a_whole_event_is_a_slice_of_its_chunk() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\ndat");
    let mut rest = chunk.clone();
    let mut framer = Framer::default();
    let first = framer.next(&mut rest).unwrap().unwrap();
    assert!(first.is_slice);
    assert_eq!(first.bytes.as_ptr(), chunk.as_ptr());
    framer.next(&mut rest).unwrap().unwrap();
    assert_eq!(framer.next(&mut rest).unwrap(), None);
    let mut more = Bytes::from_static(b"a: c\n\n");
    assert!(!framer.next(&mut more).unwrap().unwrap().is_slice);
}

#[test]
fn an_endless_event_is_refused() {
    let mut framer = Framer::default();
    let line = Bytes::from(vec![b'x'; 1 << 20]);
    let refused = (0..5).any(|_| framer.next(&mut line.clone()) == Err(TooLarge));
    assert!(refused);
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        pieces in prop::collection::vec(
            prop::sample::select(vec!["data: a", "\n", "\r", "\r\n", ": c", "data:b", "x", "\u{feff}", "event: e"]), 0..40),
        cuts in prop::collection::vec(0_usize..200, 0..12),
    ) {
        let stream = pieces.concat().into_bytes();
        let (whole, _) = frames(&[&stream]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut from = 0;
        for cut in cuts {
            chunks.push(&stream[from..cut]);
            from = cut;
        }
        chunks.push(&stream[from..]);
        let (parts, rest) = frames(&chunks);
        let told = |events: &[Bytes]| events.iter().filter_map(|event| data(event)).collect::<Vec<_>>();
        prop_assert_eq!(told(&parts), told(&whole));
        prop_assert_eq!([parts.concat(), rest.to_vec()].concat(), stream);
    }
}
