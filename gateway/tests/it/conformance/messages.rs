//! Requests as HTTP/2 carries them (RFC 9113 §8): which are well-formed, and that no others are served.

use super::{
    Case, case,
    wire::{
        DATA, END_HEADERS, END_STREAM, Fields, HEADERS, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, WHOLE, asks, block,
        field, frame, post,
    },
};

/// What an upstream that sees it was asked for by mistake.
const MARK: (&str, &str) = ("x-is", "malformed");

pub(super) fn table() -> Vec<Case> {
    let mut all = well_formed();
    all.extend(pseudo());
    all.extend(pseudo_values());
    all.extend(connects());
    all.extend(names_and_values());
    all.extend(of_one_connection());
    all.extend(lengths());
    all.extend(trailers());
    all
}

/// One request of these fields, for an upstream.
fn fields(clause: &'static str, what: &'static str, fields: Fields<'_>) -> Case {
    case(clause, what).send(frame(HEADERS, WHOLE, 1, block(fields)))
}

/// A good request and this behind it.
fn with(clause: &'static str, what: &'static str, more: impl AsRef<[u8]>) -> Case {
    let head = [&asks("GET", "/up", &[MARK])[..], more.as_ref()].concat();
    case(clause, what).send(frame(HEADERS, WHOLE, 1, head))
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/up");
const AUTHORITY: (&str, &str) = (":authority", "test");

fn well_formed() -> Vec<Case> {
    let asked = |method, path, more| frame(HEADERS, WHOLE, 1, asks(method, path, more));
    vec![
        case("RFC 9113 §8.1", "GET").send(asked("GET", "/up", &[])).answers(1, 200),
        case("RFC 9113 §8.1", "a method that nobody knows").send(asked("PURGE", "/up", &[])).answers(1, 200),
        case("RFC 9113 §8.3.1", "pseudo-header fields in another order")
            .send(frame(HEADERS, WHOLE, 1, block(&[PATH, AUTHORITY, METHOD, SCHEME])))
            .answers(1, 200),
        case("RFC 9113 §8.3.1", "the host by `host`")
            .send(frame(HEADERS, WHOLE, 1, block(&[METHOD, SCHEME, PATH, ("host", "test")])))
            .answers(1, 200),
        case("RFC 9113 §8.3.1", "the host by both").send(asked("GET", "/up", &[("host", "test")])).answers(1, 200),
        case("RFC 9113 §8.2.2", "`te: trailers`").send(asked("GET", "/up", &[("te", "trailers")])).answers(1, 200),
        case("RFC 9113 §8.2.3", "a cookie in crumbs")
            .send(asked("GET", "/up", &[("cookie", "a=1"), ("cookie", "b=2")]))
            .answers(1, 200),
        case("RFC 9113 §8.1", "POST with trailers")
            .send(post(1, "/up", &[]))
            .send(frame(DATA, 0, 1, b"content"))
            .send(frame(HEADERS, WHOLE, 1, block(&[("x-checksum", "1")])))
            .answers(1, 200),
        case("RFC 9113 §8.1", "POST of nothing but trailers")
            .send(post(1, "/up", &[]))
            .send(frame(HEADERS, WHOLE, 1, block(&[("x-checksum", "1")])))
            .answers(1, 200),
        case("RFC 9110 §9.3.2", "an answer to HEAD has no content")
            .send(asked("HEAD", "/", &[]))
            .after(|frame| {
                let has_content = frame.kind == DATA && !frame.payload.is_empty();
                frame.ends_stream() && !has_content
            })
            .goes_on(3),
        case(
            "RFC 9113 §8.1",
            "an early answer is whole, and what asks for the rest of the request to stop comes behind it",
        )
        .send(post(1, "/nowhere", &[]))
        .send(frame(DATA, 0, 1, b"more of this"))
        .answers(1, 404),
        case("RFC 9113 §8.1", "what it asks that with is no error")
            .send(post(1, "/nowhere", &[]))
            .answered(1)
            .resets(1, &[NO_ERROR]),
        case("RFC 9110 §15.5.5", "a path that nobody serves").send(asked("GET", "/nowhere", &[])).answers(1, 404),
        case("RFC 9110 §10.1.1", "an expectation is met")
            .send(post(1, "/up", &[("expect", "100-continue"), ("content-length", "1")]))
            .send(frame(DATA, END_STREAM, 1, b"x"))
            .answers(1, 200),
    ]
}

fn pseudo() -> Vec<Case> {
    let good = [METHOD, SCHEME, PATH, AUTHORITY, MARK];
    let clause = "RFC 9113 §8.3";
    vec![
        fields("RFC 9113 §8.3.1", "no method", &good[1..]).malformed(1),
        fields("RFC 9113 §8.3.1", "no scheme", &[METHOD, PATH, AUTHORITY, MARK]).malformed(1),
        fields("RFC 9113 §8.3.1", "no path", &[METHOD, SCHEME, AUTHORITY, MARK]).malformed(1),
        fields("RFC 9113 §8.3.1", "no host at all", &[METHOD, SCHEME, PATH, MARK]).malformed(1),
        fields(clause, "nothing", &[]).malformed(1),
        fields(clause, "two methods", &[METHOD, METHOD, SCHEME, PATH, AUTHORITY, MARK]).malformed(1),
        fields(clause, "two schemes", &[METHOD, SCHEME, SCHEME, PATH, AUTHORITY, MARK]).malformed(1),
        fields(clause, "two paths", &[METHOD, SCHEME, PATH, PATH, AUTHORITY, MARK]).malformed(1),
        fields(clause, "two authorities", &[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY, MARK]).malformed(1),
        fields(clause, "one that nobody knows", &[METHOD, SCHEME, PATH, AUTHORITY, (":unknown", "1"), MARK])
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
        fields(clause, "one with no name", &[METHOD, SCHEME, PATH, AUTHORITY, (":", "1"), MARK])
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
        fields(clause, "one of answers", &[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200"), MARK]).malformed(1),
        fields(clause, "one behind a field", &[METHOD, SCHEME, PATH, MARK, AUTHORITY]).malformed(1),
        fields(clause, "the path behind a field", &[METHOD, SCHEME, AUTHORITY, MARK, PATH]).malformed(1),
    ]
}

fn pseudo_values() -> Vec<Case> {
    let clause = "RFC 9113 §8.3.1";
    let path = |what, path| fields(clause, what, &[METHOD, SCHEME, (":path", path), AUTHORITY, MARK]);
    let host = |what, host| fields(clause, what, &[METHOD, SCHEME, PATH, (":authority", host), MARK]);
    vec![
        path("an empty path", "").malformed(1),
        path("a path that begins with no slash", "up").malformed(1),
        path("a path that is a URI", "http://test/up").malformed(1),
        path("a path that is `*`, which is for OPTIONS", "*").malformed(1),
        path("a path with a space", "/up x").malformed(1),
        path("a path with a line's end", "/up\r\nx: y").malformed(1),
        // The `http` crate leaves off what h2 gives it: nobody is asked for a fragment.
        fields(clause, "a path with a fragment", &[METHOD, SCHEME, (":path", "/up#x"), AUTHORITY]).answers(1, 200),
        host("an authority with a user", "user@test").malformed(1),
        host("an authority with a path", "test/up").malformed(1),
        host("an authority with a space", "te st").malformed(1),
        host("an empty authority", "").malformed(1),
        host("a port that is none", "test:x").malformed(1),
        fields(clause, "an authority and another host", &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "other"), MARK])
            .malformed(1),
        fields(clause, "two hosts", &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "test"), ("host", "test"), MARK])
            .malformed(1),
        fields(clause, "an empty method", &[(":method", ""), SCHEME, PATH, AUTHORITY, MARK])
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
        fields(clause, "a method that is no token", &[(":method", "GE T"), SCHEME, PATH, AUTHORITY, MARK])
            .resets_or_ends(1, &[PROTOCOL_ERROR]),
        fields(clause, "a scheme that is none", &[METHOD, (":scheme", "ht tp"), PATH, AUTHORITY, MARK]).malformed(1),
    ]
}

fn connects() -> Vec<Case> {
    let connect = (":method", "CONNECT");
    let protocol = (":protocol", "websocket");
    vec![
        fields("RFC 9113 §8.5", "CONNECT with a path and a scheme", &[connect, SCHEME, PATH, AUTHORITY, MARK])
            .malformed(1),
        fields("RFC 9113 §8.5", "CONNECT without an authority", &[connect, MARK]).answers(1, 501),
        fields("RFC 9110 §9.3.6", "CONNECT as it should be, which is no way through here", &[connect, AUTHORITY, MARK])
            .answers(1, 501),
        fields("RFC 8441 §4", "a protocol for GET", &[METHOD, protocol, SCHEME, PATH, AUTHORITY, MARK]).malformed(1),
        fields("RFC 8441 §4", "an extended CONNECT without a path", &[connect, protocol, SCHEME, AUTHORITY, MARK])
            .malformed(1),
        fields("RFC 8441 §4", "an extended CONNECT without a scheme", &[connect, protocol, PATH, AUTHORITY, MARK])
            .malformed(1),
        fields("RFC 8441 §4", "an extended CONNECT without an authority", &[connect, protocol, SCHEME, PATH, MARK])
            .malformed(1),
        fields("RFC 8441 §4", "two protocols", &[connect, protocol, protocol, SCHEME, PATH, AUTHORITY, MARK])
            .malformed(1),
    ]
}

fn names_and_values() -> Vec<Case> {
    let named =
        |what, name: &[u8]| with("RFC 9113 §8.2.1", what, field(name, "1")).resets_or_ends(1, &[PROTOCOL_ERROR]);
    let valued = |what, value: &[u8]| with("RFC 9113 §8.2.1", what, field("x-a", value));
    vec![
        named("a name in capitals", b"X-A"),
        named("a name with one capital letter", b"x-aA"),
        named("an empty name", b""),
        named("a name with a space", b"x a"),
        named("a name with a colon in it", b"x:a"),
        named("a name with a line's end", b"x-a\r\nx-b"),
        named("a name with a null", b"x\0a"),
        named("a name beyond ASCII", b"x-\xe4"),
        valued("a value with a null", b"a\0b").resets_or_ends(1, &[PROTOCOL_ERROR]),
        valued("a value with a line feed", b"a\nb").resets_or_ends(1, &[PROTOCOL_ERROR]),
        valued("a value with a carriage return", b"a\rb").resets_or_ends(1, &[PROTOCOL_ERROR]),
        valued("a value that is a second field in HTTP/1", b"a\r\nx-b: c").resets_or_ends(1, &[PROTOCOL_ERROR]),
        valued("a value that begins with a space", b" a").malformed(1),
        valued("a value that ends with a space", b"a ").malformed(1),
        valued("a value that begins with a tab", b"\ta").malformed(1),
        valued("a value that ends with a tab", b"a\t").malformed(1),
    ]
}

fn of_one_connection() -> Vec<Case> {
    let clause = "RFC 9113 §8.2.2";
    vec![
        with(clause, "`connection`", block(&[("connection", "keep-alive")])).malformed(1),
        with(clause, "`keep-alive`", block(&[("keep-alive", "timeout=5")])).malformed(1),
        with(clause, "`proxy-connection`", block(&[("proxy-connection", "keep-alive")])).malformed(1),
        with(clause, "`transfer-encoding`", block(&[("transfer-encoding", "chunked")])).malformed(1),
        with(clause, "`upgrade`", block(&[("upgrade", "h2c")])).malformed(1),
        with(clause, "`te` with more than trailers", block(&[("te", "trailers, deflate")])).malformed(1),
        with(clause, "`te` with something else", block(&[("te", "gzip")])).malformed(1),
    ]
}

/// How long a body says it is, and is (RFC 9113 §8.1.1).
fn lengths() -> Vec<Case> {
    let clause = "RFC 9113 §8.1.1";
    let says = |what, length| case(clause, what).send(post(1, "/up", &[("content-length", length), MARK]));
    let data = |flags, content: &[u8]| frame(DATA, flags, 1, content);
    vec![
        says("less than it says", "3").send(data(END_STREAM, b"ab")).malformed(1),
        says("nothing, where it says one", "1").send(data(END_STREAM, b"")).malformed(1),
        says("more than it says", "2").send(data(END_STREAM, b"abc")).malformed(1),
        says("more than it says, in two", "3").send([data(0, b"ab"), data(END_STREAM, b"cd")].concat()).malformed(1),
        says("something, where it says nothing", "0").send(data(END_STREAM, b"a")).malformed(1),
        says("less than it says, and trailers", "3")
            .send([data(0, b"ab"), frame(HEADERS, WHOLE, 1, block(&[("x-b", "1")]))].concat())
            .malformed(1),
        with(clause, "a length, and the end of it", block(&[("content-length", "5")])).malformed(1),
        says("a length that is none", "1x").send(data(END_STREAM, b"a")).malformed(1),
        says("a length below nothing", "-1").send(data(END_STREAM, b"a")).malformed(1),
        says("a length with a sign", "+1").send(data(END_STREAM, b"a")).malformed(1),
        says("a length in two", "1, 1").send(data(END_STREAM, b"a")).malformed(1),
        says("a length that no number holds", "18446744073709551617").send(data(END_STREAM, b"a")).malformed(1),
        case("RFC 9110 §8.6", "two lengths")
            .send(post(1, "/up", &[("content-length", "1"), ("content-length", "2"), MARK]))
            .send(data(END_STREAM, b"a"))
            .malformed(1),
        case("RFC 9110 §8.6", "one length twice")
            .send(post(1, "/up", &[("content-length", "1"), ("content-length", "1"), MARK]))
            .send(data(END_STREAM, b"a"))
            .malformed(1),
    ]
}

fn trailers() -> Vec<Case> {
    let behind = |what, head: Fields<'_>, trailers: Fields<'_>| {
        case("RFC 9113 §8.1", what).send(post(1, "/up", head)).send(frame(DATA, 0, 1, b"content")).send(frame(
            HEADERS,
            WHOLE,
            1,
            block(trailers),
        ))
    };
    vec![
        // h2 takes these for nothing: they go no further, and nobody can tell.
        behind("a pseudo-header field in trailers", &[], &[(":method", "GET")]).answers(1, 200),
        behind("one of answers in trailers", &[], &[(":status", "200")]).answers(1, 200),
        behind("a name in capitals in trailers", &[MARK], &[("X-A", "1")]).resets_or_ends(1, &[PROTOCOL_ERROR]),
        behind("`connection` in trailers", &[MARK], &[("connection", "close")]).malformed(1),
        case("RFC 9113 §8.1", "trailers that are not the end")
            .send(post(1, "/up", &[MARK]))
            .send(frame(DATA, 0, 1, b"content"))
            .send(frame(HEADERS, END_HEADERS, 1, block(&[("x-a", "1")])))
            .malformed(1),
        case("RFC 9113 §8.1", "a second head in place of a body")
            .send(post(1, "/up", &[MARK]))
            .send(frame(HEADERS, END_HEADERS, 1, asks("GET", "/up", &[])))
            .malformed(1),
        case("RFC 9113 §8.1", "DATA behind trailers")
            .send(post(1, "/held", &[]))
            .send(frame(HEADERS, WHOLE, 1, block(&[("x-a", "1")])))
            .send(frame(DATA, END_STREAM, 1, b"x"))
            .resets_or_ends_as_h2_says(1, STREAM_CLOSED),
    ]
}
