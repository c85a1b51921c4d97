//! Which trace a request is part of: W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context/>).
//!
//! A caller's trace goes on, with our own span as the parent of what we send; where a caller names none, or none that can be
//! read, one begins here. One span stands for all attempts of an exchange and for its copy.

use http::{HeaderMap, HeaderName, HeaderValue};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` trace id `-` parent id `-` flags (§3.2.2).
const LEN: usize = 55;
/// The caller may have recorded it (§3.2.2.5.1).
const SAMPLED: u8 = 1;
/// The id is random (level 2), as whoever began the trace says.
const RANDOM: u8 = 2;
/// More members than that make a `tracestate` none (§3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// So much of a `tracestate` goes on at least (§3.3.1.5); what is longer is cut to it.
const MAX_STATE_BYTES: usize = 512;
/// Members that are longer are the first to go where all are too long (§3.3.1.5).
const LONG_MEMBER_BYTES: usize = 128;
/// A key, and a value.
const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 256;

/// The trace of one exchange, and our span in it. Ids are kept as they are written, in lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    id: [u8; 32],
    span: [u8; 16],
    flags: u8,
    /// Began elsewhere, so `tracestate` goes with it.
    goes_on: bool,
}

impl Trace {
    /// The one that a request's headers name, else a new one, of which this share is sampled.
    pub(crate) fn of(headers: &HeaderMap, sample: f64) -> Self {
        match parent(headers) {
            Some((id, flags)) => Self { id, span: hex(&rand::random::<[u8; 8]>()), flags, goes_on: true },
            None => Self::begin(&rand::random(), &rand::random(), sample),
        }
    }

    fn begin(id: &[u8; 16], span: &[u8; 8], sample: f64) -> Self {
        // Whoever decides by the id decides the same, wherever the trace goes.
        let [.., a, b, c, d] = *id;
        let is_sampled = f64::from(u32::from_be_bytes([a, b, c, d])) < sample * (f64::from(u32::MAX) + 1.0);
        Self { id: hex(id), span: hex(span), flags: u8::from(is_sampled), goes_on: false }
    }

    /// As it is in logs.
    pub(crate) fn id(&self) -> &str {
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    fn header(&self) -> HeaderValue {
        let mut text = [b'-'; LEN];
        text[..2].copy_from_slice(b"00");
        text[3..35].copy_from_slice(&self.id);
        text[36..52].copy_from_slice(&self.span);
        text[53..].copy_from_slice(&hex::<1, 2>(&[self.flags]));
        HeaderValue::from_bytes(&text).expect("hex digits and hyphens")
    }

    /// Says so to an upstream, in place of what the caller has said.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        headers.insert(&TRACEPARENT, self.header());
        if !headers.contains_key(&TRACESTATE) {
            return;
        }
        match if self.goes_on { state(headers) } else { State::Drop } {
            State::Keep => {}
            State::Become(shorter) => drop(headers.insert(&TRACESTATE, shorter)),
            State::Drop => drop(headers.remove(&TRACESTATE)),
        }
    }
}

fn hex<const BYTES: usize, const DIGITS: usize>(bytes: &[u8; BYTES]) -> [u8; DIGITS] {
    const TABLE: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [b'0'; DIGITS];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[TABLE[usize::from(byte >> 4)], TABLE[usize::from(byte & 15)]]);
    }
    digits
}

/// Id and flags of the caller's trace, if it names one (§3.2). Two headers name none.
fn parent(headers: &HeaderMap) -> Option<([u8; 32], u8)> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let text = values.next().filter(|_| values.next().is_none())?.as_bytes();
    let (text, more) = text.split_at_checked(LEN)?;
    // Of a version that we don't know only these fields, which it has as well (§3.2.4).
    let is_whole = match &text[..2] {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => more.first().is_none_or(|byte| *byte == b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|&at| text[at] == b'-');
    let fields = [&text[..2], &text[3..35], &text[36..52], &text[53..]];
    let [_, id, span, flags] = fields;
    let are_hex = fields.iter().all(|field| field.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')));
    let is_nobody = |id: &[u8]| id.iter().all(|digit| *digit == b'0');
    if !is_whole || !dashes || !are_hex || is_nobody(id) || is_nobody(span) {
        return None;
    }
    let flags = u8::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()?;
    // Flags that nobody has defined are 0 (§3.2.2.5.2).
    Some((id.try_into().ok()?, flags & (SAMPLED | RANDOM)))
}

/// What becomes of a `tracestate`.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Keep,
    Become(HeaderValue),
    Drop,
}

/// Several headers are one list, in their order (§3.3.1). One that is fine as it is costs no memory.
fn state(headers: &HeaderMap) -> State {
    let mut count = 0;
    for member in members(headers) {
        count += 1;
        if count > MAX_MEMBERS || !is_member(member) {
            return State::Drop;
        }
    }
    let mut lines = headers.get_all(&TRACESTATE).iter();
    let first = lines.next().filter(|_| lines.next().is_none());
    if first.is_some_and(|line| count > 0 && line.len() <= MAX_STATE_BYTES) {
        return State::Keep;
    }
    let mut all: Vec<&str> = members(headers).collect();
    let length = |all: &[&str]| all.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1);
    // The long ones first, the last of them before the others.
    while length(&all) > MAX_STATE_BYTES {
        let long = all.iter().rposition(|member| member.len() > LONG_MEMBER_BYTES);
        all.remove(long.unwrap_or(all.len() - 1));
    }
    let shorter = HeaderValue::from_str(&all.join(",")).ok().filter(|shorter| !shorter.is_empty());
    shorter.map_or(State::Drop, State::Become)
}

/// A header that is no text is a member that is none, as any that has no `=`.
fn members(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(&TRACESTATE).iter().map(|line| line.to_str().unwrap_or("?"));
    let members = lines.flat_map(|line| line.split(','));
    members.map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty())
}

/// `key=value` (§3.3.1.3).
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let may_be_key = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let begins = key.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_key = begins && key.len() <= MAX_KEY_BYTES && key.bytes().all(may_be_key);
    let may_be_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
    is_key && (1..=MAX_VALUE_BYTES).contains(&value.len()) && value.bytes().all(may_be_value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn named(value: &str) -> Option<(String, u8)> {
        let (id, flags) = parent(&map(&[("traceparent", value)]))?;
        Some((String::from_utf8(id.to_vec()).expect("hex"), flags))
    }

    #[test]
    fn a_callers_trace_is_read_as_the_recommendation_says() {
        let whole = |version: &str, flags: &str| format!("{version}-{ID}-{PARENT}-{flags}");
        for (flags, read) in [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("fd", 1), ("fc", 0)] {
            assert_eq!(named(&whole("00", flags)), Some((ID.to_owned(), read)), "{flags}");
        }
        for version in ["01", "cc", "fe"] {
            assert_eq!(named(&whole(version, "01")), Some((ID.to_owned(), 1)), "{version}");
            assert_eq!(named(&(whole(version, "01") + "-what-the-future-will-be-like")), Some((ID.to_owned(), 1)));
            assert_eq!(named(&(whole(version, "01") + ".what")), None);
        }
        let good = whole("00", "01");
        for wrong in [
            String::new(),
            good[..54].to_owned(),
            good.clone() + "-",
            good.clone() + "0",
            whole("ff", "01"),
            whole("0f", "0x"),
            whole("0F", "01"),
            good.to_uppercase(),
            good.replace(ID, &"0".repeat(32)),
            good.replace(PARENT, &"0".repeat(16)),
            good.replacen("4b", "4B", 1),
            good.replacen("-", "_", 1),
            good.replacen("4b", "xb", 1),
            format!("{good},{good}"),
        ] {
            assert_eq!(named(&wrong), None, "{wrong}");
        }
        assert_eq!(parent(&map(&[("traceparent", &good), ("traceparent", &good)])), None, "whose of the two?");
        assert_eq!(parent(&map(&[])), None);
    }

    #[test]
    fn what_goes_on_has_the_callers_trace_and_our_span() {
        let mut headers = map(&[("traceparent", &format!("00-{ID}-{PARENT}-01")), ("tracestate", "a=1, b@c=2")]);
        let trace = Trace::of(&headers, 0.0);
        trace.pass_on(&mut headers);
        let sent = headers["traceparent"].to_str().expect("text").to_owned();
        assert!(sent.starts_with(&format!("00-{ID}-")) && sent.ends_with("-01") && !sent.contains(PARENT), "{sent}");
        assert_eq!((trace.id(), &headers["tracestate"]), (ID, &HeaderValue::from_static("a=1, b@c=2")));
        let (id, flags) = parent(&headers).expect("one that can be read");
        assert_eq!((&id[..], flags), (ID.as_bytes(), 1));
        assert_ne!(Trace::of(&headers, 0.0).span, trace.span);
    }

    #[test]
    fn a_trace_that_begins_here_has_nothing_of_what_a_caller_said() {
        for said in [None, Some("00-x"), Some("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")] {
            let pairs: Vec<_> = said.iter().map(|said| ("traceparent", *said)).chain([("tracestate", "a=1")]).collect();
            let mut headers = map(&pairs);
            let trace = Trace::of(&headers, 0.0);
            trace.pass_on(&mut headers);
            let (id, flags) = parent(&headers).expect("one that can be read");
            assert_eq!((&id[..], flags, headers.get("tracestate")), (trace.id().as_bytes(), 0, None), "{said:?}");
            assert_ne!(Trace::of(&map(&pairs), 0.0).id, trace.id);
        }
    }

    #[test]
    fn so_many_of_the_traces_that_begin_here_are_sampled() {
        let begin = |last: u32, sample| {
            let mut id = [7; 16];
            id[12..].copy_from_slice(&last.to_be_bytes());
            Trace::begin(&id, &[1; 8], sample).flags
        };
        for last in [0, 1 << 31, u32::MAX] {
            assert_eq!((begin(last, 0.0), begin(last, 1.0)), (0, SAMPLED));
        }
        assert_eq!((begin((1 << 30) - 1, 0.25), begin(1 << 30, 0.25)), (SAMPLED, 0));
    }

    #[test]
    fn a_state_that_is_too_long_or_none_goes_no_further() {
        let state =
            |lines: &[&str]| super::state(&map(&lines.iter().map(|line| ("tracestate", *line)).collect::<Vec<_>>()));
        let become_ = |text: &str| State::Become(HeaderValue::from_str(text).expect("a value"));
        assert_eq!(state(&["a=1,b=2"]), State::Keep);
        assert_eq!(state(&["a=1", "b=2 , ,c=3"]), become_("a=1,b=2,c=3"));
        let no_text =
            HeaderMap::from_iter([(TRACESTATE.clone(), HeaderValue::from_bytes(b"a=\xff").expect("a value"))]);
        assert_eq!(super::state(&no_text), State::Drop);
        for wrong in ["", ",", "a", "=1", "a=", "A=1", "a=1=2", "-a=1", "a b=1", "a=1,b"] {
            assert_eq!(state(&[wrong]), State::Drop, "{wrong}");
        }
        let many = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        assert_eq!((state(&[&many(32)]), state(&[&many(33)])), (State::Keep, State::Drop));
        let long = |key: &str, length: usize| format!("{key}={}", "x".repeat(length));
        assert_eq!(state(&[&long("a", 257)]), State::Drop);
        assert_eq!(state(&[&long(&"a".repeat(256), 256)]), State::Drop, "alone it is longer than all may be");
        let (a, b, c) = (long("a", 200), long("b", 100), long("c", 250));
        assert_eq!(state(&[&format!("{a},{b},{c}")]), become_(&format!("{a},{b}")), "the last of the long ones");
        let short = (0..10).map(|n| long(&format!("k{n}"), 60)).collect::<Vec<_>>();
        assert_eq!(state(&[&short.join(",")]), become_(&short[..8].join(",")), "then the last ones");
    }

    proptest! {
        #[test]
        fn whatever_is_said_what_goes_on_can_be_read(said in "[0-9a-fx-]{0,60}", state in "[a-c=, x]{0,700}") {
            let mut headers = map(&[("traceparent", &said), ("tracestate", &state)]);
            let callers = parent(&headers);
            let trace = Trace::of(&headers, 0.5);
            trace.pass_on(&mut headers);
            let (id, _) = parent(&headers).expect("one that can be read");
            prop_assert!(callers.is_none_or(|(callers, _)| callers == id) && trace.id().as_bytes() == id);
            let left: usize = headers.get_all("tracestate").iter().map(HeaderValue::len).sum();
            prop_assert!(left <= MAX_STATE_BYTES && (callers.is_some() || left == 0));
            prop_assert!(super::state(&headers) != State::Drop || left == 0);
        }
    }
}
