//! Header blocks (RFC 7541): what is decoded, what can't be, and that what can't be ends the connection.

use super::{
    Case, case,
    wire::{
        COMPRESSION_ERROR, ENHANCE_YOUR_CALM, HEADERS, PROTOCOL_ERROR, WHOLE, WITH_PRIORITY, asks, block, field, frame,
        integer, remembered, string,
    },
};

/// The largest table that a server lets a client have, unless it says otherwise.
const TABLE: usize = 4_096;

pub(super) fn table() -> Vec<Case> {
    let mut all = decoded();
    all.extend(table_sizes());
    all.extend(broken());
    all.extend(bombs());
    all
}

/// A whole request of this block.
fn request(stream: u32, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, block)
}

/// `GET / HTTP/2`, of fields that are in the static table but for the host.
fn by_table() -> Vec<u8> {
    [&[0x82, 0x86, 0x84, 0x41][..], &string("test")].concat()
}

fn indexed(index: usize) -> Vec<u8> {
    integer(0x80, 7, index)
}

fn resized(size: usize) -> Vec<u8> {
    integer(0x20, 5, size)
}

fn and(more: impl AsRef<[u8]>) -> Vec<u8> {
    [&by_table()[..], more.as_ref()].concat()
}

fn decoded() -> Vec<Case> {
    let path = |value: &[u8]| [&[0x82, 0x86, 0x04][..], value, &[0x41], &string("test")].concat();
    let huffman_slash = [0x81, 0x63]; // 011000, and ones
    vec![
        case("RFC 7541 §6.1", "fields of the static table").send(request(1, by_table())).answers(1, 200),
        case("RFC 7541 §6.2.1", "a field that is remembered is there for the next request")
            .send(request(1, and([remembered("x-a", "1"), remembered("x-b", "2")].concat())))
            .answered(1)
            .send(request(3, [&[0x82, 0x86, 0x84][..], &indexed(64), &indexed(62), &indexed(63)].concat()))
            .answers(3, 200), // 64 is the host, without which nothing is served
        case("RFC 7541 §2.3.2", "the newest is first")
            .send(request(1, by_table()))
            .answered(1)
            .send(request(3, [&[0x82, 0x86, 0x84][..], &indexed(62)].concat()))
            .answers(3, 200),
        case("RFC 7541 §6.2.1", "a new value of a name of the dynamic table")
            .send(request(1, and(remembered("x-a", "1"))))
            .answered(1)
            .send(request(3, and([&integer(0x40, 6, 63)[..], &string("2")].concat())))
            .answers(3, 200),
        case("RFC 7541 §6.2.2", "one that is not remembered, by a name of the static table")
            .send(request(1, and([&integer(0, 4, 58)[..], &string("test/1")].concat())))
            .answers(1, 200),
        case("RFC 7541 §6.2.3", "one that is never to be remembered")
            .send(request(1, and([&[0x10][..], &string("authorization"), &string("Bearer x")].concat())))
            .answers(1, 200),
        case("RFC 7541 §5.2", "Huffman's code").send(request(1, path(&huffman_slash))).answers(1, 200),
        case("RFC 7541 §5.1", "a number in more bytes than it needs")
            .send(request(1, and([&[0, 3][..], b"x-a", &[0x7f, 0x80, 0x00], &[b'v'; 127]].concat())))
            .answers(1, 200),
        case("RFC 7541 §4.4", "a field larger than the table empties it")
            .send(request(1, and(remembered("x-a", vec![b'v'; TABLE]))))
            .answered(1)
            .send(request(3, and(indexed(63))))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        case("RFC 7541 §4.4", "what no longer fits goes, oldest first")
            .send(request(1, and(["x-a", "x-b"].map(|name| remembered(name, vec![b'v'; 2_000])).concat())))
            .answered(1)
            .send(request(3, [asks("GET", "/", &[]), indexed(62), indexed(63)].concat()))
            .answered(3)
            .send(request(5, [asks("GET", "/", &[]), indexed(64)].concat()))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
    ]
}

fn table_sizes() -> Vec<Case> {
    vec![
        case("RFC 7541 §4.2", "a smaller table, and none, and one again, before a block")
            .send(request(1, [resized(100), by_table()].concat()))
            .answered(1)
            .send(request(3, [resized(0), resized(TABLE), by_table()].concat()))
            .answers(3, 200),
        case("RFC 7541 §4.3", "a table of nothing forgets")
            .send(request(1, and(remembered("x-a", "1"))))
            .answered(1)
            .send(request(3, [resized(0), by_table(), indexed(62)].concat()))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        case("RFC 7541 §6.3", "a table larger than is allowed")
            .send(request(1, [resized(TABLE + 1), by_table()].concat()))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        case("RFC 7541 §6.3", "a table of all that can be said")
            .send(request(1, [resized(0xffff_ffff), by_table()].concat()))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        case("RFC 7541 §4.2", "another size at the end of a block")
            .send(request(1, and(resized(100))))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        case("RFC 7541 §4.2", "another size within a block")
            .send(request(1, and([resized(100), field("x-a", "1")].concat())))
            .ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
    ]
}

fn broken() -> Vec<Case> {
    let broken = |what, clause, more: &[u8]| {
        case(clause, what).send(request(1, and(more))).ends(&[COMPRESSION_ERROR, PROTOCOL_ERROR])
    };
    let coded = |coded: &[u8]| [&[0, 3][..], b"x-a", &[0x80 | u8::try_from(coded.len()).unwrap()], coded].concat();
    let at = |path: &[u8]| [&[0x82, 0x86][..], path, &field(":authority", "test")].concat();
    let on_itself = [&[0, 0, 0, 3, 15][..], &at(&remembered(":path", "/nowhere"))].concat();
    vec![
        broken("an index of nothing", "RFC 7541 §6.1", &[0x80]),
        broken("an index behind both tables", "RFC 7541 §2.3.3", &indexed(70)),
        broken(
            "a name by an index behind both tables",
            "RFC 7541 §2.3.3",
            &[&integer(0x40, 6, 70)[..], &string("v")].concat(),
        ),
        broken("an index without an end", "RFC 7541 §5.1", &[0xff; 30]),
        broken(
            "an index that no number holds",
            "RFC 7541 §5.1",
            &[255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ),
        broken(
            "a length without an end",
            "RFC 7541 §5.1",
            &[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ),
        broken("a name longer than its block", "RFC 7541 §5.2", &[0, 100, b'x']),
        broken("a value longer than its block", "RFC 7541 §5.2", &[&[0][..], &string("x-a"), &[100, b'v']].concat()),
        broken("a field without a value", "RFC 7541 §6.2", &[&[0][..], &string("x-a")].concat()),
        broken("padding of eight bits", "RFC 7541 §5.2", &coded(&[0x1f, 0xff])), // `a` and eleven ones
        broken("padding of noughts", "RFC 7541 §5.2", &coded(&[0x18])),
        broken("the end within a string", "RFC 7541 §5.2", &coded(&[0xff, 0xff, 0xff, 0xff])),
        case("RFC 9113 §4.3", "a block of a stream that is reset is decoded all the same, or its connection ends")
            .send(request(1, at(&remembered(":path", "/"))))
            .answered(1)
            .send(frame(HEADERS, WHOLE | WITH_PRIORITY, 3, on_itself))
            .send(request(5, at(&indexed(62)))) // for /nowhere, and not for the path before it
            .ends(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        case("RFC 9113 §4.3", "so is one of a malformed request")
            .send(request(1, and([block(&[("connection", "close")]), remembered("x-a", "1")].concat())))
            .after(|frame| frame.kind == super::RST_STREAM)
            .send(request(3, and(indexed(63))))
            .answers(3, 200),
    ]
}

/// Little that is to become much (RFC 9113 §10.5.1).
fn bombs() -> Vec<Case> {
    let large = || remembered("x-a", vec![b'v'; 3_900]);
    vec![
        case("RFC 9113 §10.5.1", "100 kilobytes of header fields by some hundred bytes")
            .send(request(1, and(large())))
            .answered(1)
            .send(request(3, and(indexed(63).repeat(25))))
            .answers(3, 431),
        case("RFC 9113 §10.5.1", "60 megabytes of header fields by 16 kilobytes")
            .send(request(1, and(large())))
            .answered(1)
            .send(request(3, and(indexed(63).repeat(16_000))))
            .resets_or_ends(3, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR]),
    ]
}
