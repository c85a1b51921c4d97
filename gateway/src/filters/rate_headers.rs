//! How the limits of a request stand, as headers: `x-ratelimit-*` as OpenAI writes them, and the IETF's `RateLimit`
//! fields (draft-ietf-httpapi-ratelimit-headers-10).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use tollgate_model::{Algorithm, Limit, Name, Unit, WhenUnavailable, Window};
use tollgate_quota::Standing;

use super::admit::standing_of;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static REQUESTS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};
static TOKENS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

/// As many as all of the above.
const HEADERS: usize = 8;
/// What one limit takes in a list, give or take its name.
const ITEM_BYTES: usize = 64;

/// What OpenAI says of one kind of limit.
struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

/// The limits that a request meets.
#[derive(Debug, Clone)]
pub(super) struct Figures<'a>(Vec<Figure<'a>>);

#[derive(Debug, Clone, Copy)]
struct Figure<'a> {
    limit: &'a Limit,
    /// What is left, and until when; unknown where neither the log nor this node could say.
    left: Option<(u64, Duration)>,
}

impl<'a> Figures<'a> {
    pub(super) fn of(limits: impl IntoIterator<Item = &'a Arc<Limit>>) -> Self {
        Self(limits.into_iter().map(|limit| Figure { limit, left: None }).collect())
    }

    pub(super) fn with(mut self, standings: &[Standing]) -> Self {
        for Figure { limit, left } in &mut self.0 {
            *left = standing_of(standings, &limit.name).map(|it| (it.remaining, it.resets_in));
        }
        self
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().map(|figure| &figure.limit.name)
    }

    /// Those that a request could not go on without, as nobody decided on them: not those that say `whenUnavailable: allow`.
    pub(super) fn undecided(&self) -> impl Iterator<Item = &Name> {
        let denying = |figure: &&Figure<'_>| figure.limit.when_unavailable == WhenUnavailable::Deny;
        let any = self.0.iter().any(|figure| denying(&figure));
        self.0.iter().filter(move |figure| !any || denying(figure)).map(|figure| &figure.limit.name)
    }

    pub(super) fn unit(&self, limit: &str) -> Option<Unit> {
        self.0.iter().find(|figure| figure.limit.name == *limit).map(|figure| figure.limit.unit)
    }

    /// Of the limits of one kind the one that is nearest to its end, as a share of what it holds.
    fn tightest(&self, of: impl Fn(Unit) -> bool) -> Option<&Figure<'a>> {
        self.0.iter().filter(|figure| of(figure.limit.unit)).min_by(|a, b| a.share().total_cmp(&b.share()))
    }
}

impl Figure<'_> {
    #[expect(clippy::cast_precision_loss, reason = "only compared")]
    fn share(&self) -> f64 {
        if self.limit.limit == 0 {
            return 0.0;
        }
        let left = self.left.map_or(self.limit.limit, |(left, _)| left);
        // A limit of nothing has nothing left.
        if self.limit.limit == 0 { 0.0 } else { left as f64 / self.limit.limit as f64 }
    }
}

/// Whether an answer says how its limits stand.
pub(crate) fn are_told(headers: &HeaderMap) -> bool {
    headers.contains_key(&RATELIMIT)
}

pub(super) fn rate_headers(figures: &Figures<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    let requests = figures.tightest(|unit| unit == Unit::Requests);
    let tokens = figures.tightest(|unit| matches!(unit, Unit::Tokens | Unit::InputTokens | Unit::OutputTokens));
    for (names, figure) in [(&REQUESTS, requests), (&TOKENS, tokens)] {
        let Some(figure) = figure else { continue };
        headers.insert(&names.limit, HeaderValue::from(figure.limit.limit));
        if let Some((left, resets_in)) = figure.left {
            headers.insert(&names.remaining, HeaderValue::from(left));
            headers.insert(&names.reset, value(go_duration(resets_in)));
        }
    }
    let (mut policies, mut lefts) = (List::of(figures), List::of(figures));
    // What was paid in has no window, and `credits show` tells it to whom it concerns.
    let limits = figures.0.iter().filter(|figure| figure.limit.algorithm != Algorithm::Never);
    for Figure { limit, left } in limits {
        let (name, most) = (&limit.name, structured(told(limit.unit, limit.limit)));
        policies.add(name);
        policies.number(";q=", most);
        if let Some(seconds) = window_seconds(limit) {
            policies.number(";w=", seconds);
        }
        policies.unit(limit.unit);
        if let Some((left, resets_in)) = left {
            lefts.add(name);
            lefts.number(";r=", structured(told(limit.unit, *left)));
            lefts.number(";t=", ceil_seconds(*resets_in));
        }
    }
    headers.extend(policies.value().map(|policies| (RATELIMIT_POLICY.clone(), policies)));
    headers.extend(lefts.value().map(|lefts| (RATELIMIT.clone(), lefts)));
    headers
}

/// A list of a structured field (RFC 9651 §3.1).
struct List(String);

impl List {
    fn of(figures: &Figures<'_>) -> Self {
        Self(String::with_capacity(figures.0.len() * ITEM_BYTES))
    }

    fn add(&mut self, name: &str) {
        let parts = [if self.0.is_empty() { "" } else { ", " }, "\"", name, "\""];
        self.0.extend(parts);
    }

    fn number(&mut self, parameter: &str, number: u64) {
        self.0.extend([parameter, itoa::Buffer::new().format(number)]);
    }

    /// The unit that figures are told in: `tokens`, `micro-USD`.
    fn unit(&mut self, unit: Unit) {
        match unit.currency() {
            Some(currency) => self.0.extend([";qu=\"micro-", currency.as_str(), "\""]),
            None => self.0.extend([";qu=\"", unit.as_str(), "\""]),
        }
    }

    /// None of nothing.
    fn value(self) -> Option<HeaderValue> {
        (!self.0.is_empty()).then(|| value(self.0))
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("names, digits and punctuation")
}

/// Money in millionths, rounded down: pico-units have more digits than a structured field.
fn told(unit: Unit, units: u64) -> u64 {
    if unit.currency().is_some() { units / 1_000_000 } else { units }
}

/// An integer of a structured field has at most 15 digits (RFC 9651 §3.3.1).
fn structured(number: u64) -> u64 {
    number.min(999_999_999_999_999)
}

/// None where windows differ in length, or there is none.
fn window_seconds(limit: &Limit) -> Option<u64> {
    match limit.window {
        _ if limit.unit == Unit::Concurrency => None,
        Window::Second => Some(1),
        Window::Minute => Some(60),
        Window::Hour => Some(3_600),
        Window::Day => Some(86_400),
        Window::Month => None,
    }
}

fn ceil_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// `850ms`, `12s`, `6m0s`, `23h59m1s`: how OpenAI writes durations, whole seconds rounded up.
fn go_duration(duration: Duration) -> String {
    let (mut text, mut digits) = (String::with_capacity(12), itoa::Buffer::new());
    if duration < Duration::from_secs(1) {
        text.extend([digits.format(duration.as_millis()), "ms"]);
        return text;
    }
    let seconds = ceil_seconds(duration);
    let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    for (count, unit) in &parts[first..] {
        text.extend([digits.format(*count), unit]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tollgate_model::{Checked, Timestamp, check};
    use tollgate_proto::v1::{self, resource::Kind};

    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (millis, text) in [(0, "0ms"), (850, "850ms"), (1_001, "2s"), (360_000, "6m0s"), (86_341_000, "23h59m1s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    /// More than a structured field can say.
    const MOST: u64 = i64::MAX.unsigned_abs();

    fn limit(name: &str, unit: &str, window: &str, limit: u64) -> Arc<Limit> {
        let currency = if unit == "cost" { "USD".to_owned() } else { String::new() };
        let (unit, window) = (unit.to_owned(), window.to_owned());
        let limit = v1::Limit {
            api_version: "tollgate/v1".into(),
            kind: "Limit".into(),
            metadata: Some(v1::Metadata { name: name.into(), ..Default::default() }),
            spec: Some(v1::LimitSpec { currency, unit, window, limit: Some(limit), ..Default::default() }),
        };
        match check(&v1::Resource { kind: Some(Kind::Limit(limit)) }) {
            Ok(Checked::Limit(limit)) => limit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_kind_tells_of_its_tightest_limit_and_the_lists_of_all() {
        let day = limit("a-day", "tokens", "1d", 1_000);
        let minute = limit("a-minute", "tokens", "1m", 100);
        let calls = limit("calls", "requests", "month", MOST);
        let standing = |limit: &Limit, remaining, millis| Standing {
            limit: limit.name.clone(),
            capacity: limit.limit,
            remaining,
            window_end: Timestamp(0),
            resets_in: Duration::from_millis(millis),
        };
        let standings = [standing(&day, 500, 3_600_000), standing(&minute, 40, 1_500)];
        let headers = rate_headers(&Figures::of([&day, &minute, &calls]).with(&standings));
        let told: BTreeMap<&str, &str> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let most = MOST.to_string();
        let expected = [
            ("x-ratelimit-limit-requests", most.as_str()),
            ("x-ratelimit-limit-tokens", "100"),
            ("x-ratelimit-remaining-tokens", "40"),
            ("x-ratelimit-reset-tokens", "2s"),
            (
                "ratelimit-policy",
                "\"a-day\";q=1000;w=86400;qu=\"tokens\", \"a-minute\";q=100;w=60;qu=\"tokens\", \
                 \"calls\";q=999999999999999;qu=\"requests\"",
            ),
            ("ratelimit", "\"a-day\";r=500;t=3600, \"a-minute\";r=40;t=2"),
        ];
        assert_eq!(told, BTreeMap::from(expected));
        assert!(rate_headers(&Figures::of([])).is_empty());
    }

    #[test]
    fn money_is_told_in_millionths_and_never_as_tokens() {
        let money = limit("budget", "cost", "1d", 12);
        let standing = Standing {
            limit: money.name.clone(),
            capacity: money.limit,
            remaining: 1_999_999,
            window_end: Timestamp(0),
            resets_in: Duration::from_secs(5),
        };
        let headers = rate_headers(&Figures::of([&money]).with(&[standing]));
        let told: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let policy = "\"budget\";q=12000000;w=86400;qu=\"micro-USD\"";
        assert_eq!(told, [("ratelimit-policy", policy), ("ratelimit", "\"budget\";r=1;t=5")]);
    }
}
