//! How the limits of a request stand, as headers: `x-ratelimit-*` as OpenAI writes them, and the IETF's `RateLimit`
//! fields (draft-ietf-httpapi-ratelimit-headers-10).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use tollgate_model::{Limit, Unit, WhenUnavailable, Window};
use tollgate_quota::Standing;

use super::admit::standing_of;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The limits that a request meets.
#[derive(Debug, Clone)]
pub(super) struct Figures(Vec<Figure>);

#[derive(Debug, Clone)]
struct Figure {
    limit: Arc<Limit>,
    /// What is left, and until when; unknown where neither the log nor this node could say.
    left: Option<(u64, Duration)>,
}

impl Figures {
    pub(super) fn of<'a>(limits: impl IntoIterator<Item = &'a Arc<Limit>>) -> Self {
        Self(limits.into_iter().map(|limit| Figure { limit: Arc::clone(limit), left: None }).collect())
    }

    pub(super) fn with(&self, standings: &[Standing]) -> Self {
        let left = |limit: &Limit| standing_of(standings, &limit.name).map(|it| (it.remaining, it.resets_in));
        Self(self.0.iter().map(|it| Figure { limit: Arc::clone(&it.limit), left: left(&it.limit) }).collect())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|figure| figure.limit.name.as_str())
    }

    /// Those that a request could not go on without, as nobody decided on them: not those that say `whenUnavailable: allow`.
    pub(super) fn undecided(&self) -> impl Iterator<Item = &str> {
        let denying = |figure: &&Figure| figure.limit.when_unavailable == WhenUnavailable::Deny;
        let any = self.0.iter().any(|figure| denying(&figure));
        self.0.iter().filter(move |figure| !any || denying(figure)).map(|figure| figure.limit.name.as_str())
    }

    pub(super) fn unit(&self, limit: &str) -> &'static str {
        let figure = self.0.iter().find(|figure| figure.limit.name == *limit);
        figure.map_or("units", |figure| figure.limit.unit.as_str())
    }

    /// Of the limits of one kind the one that is nearest to its end, as a share of what it holds.
    fn tightest(&self, of: impl Fn(Unit) -> bool) -> Option<&Figure> {
        self.0.iter().filter(|figure| of(figure.limit.unit)).min_by(|a, b| a.share().total_cmp(&b.share()))
    }
}

impl Figure {
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

pub(super) fn rate_headers(figures: &Figures) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let requests = figures.tightest(|unit| unit == Unit::Requests);
    let tokens = figures.tightest(|unit| !matches!(unit, Unit::Requests | Unit::Concurrency));
    for (what, figure) in [("requests", requests), ("tokens", tokens)] {
        let Some(figure) = figure else { continue };
        let mut put = |part: &str, value: String| {
            let name = HeaderName::try_from(format!("x-ratelimit-{part}-{what}")).expect("plain letters");
            headers.insert(name, HeaderValue::try_from(value).expect("digits and letters"));
        };
        put("limit", figure.limit.limit.to_string());
        if let Some((left, resets_in)) = figure.left {
            put("remaining", left.to_string());
            put("reset", go_duration(resets_in));
        }
    }
    let list = |item: &dyn Fn(&Figure) -> Option<String>| {
        let items: Vec<String> = figures.0.iter().filter_map(item).collect();
        (!items.is_empty()).then(|| HeaderValue::try_from(items.join(", ")).expect("names, digits and punctuation"))
    };
    let policy = |it: &Figure| {
        let window = window_seconds(&it.limit).map(|seconds| format!(";w={seconds}")).unwrap_or_default();
        Some(format!("\"{}\";q={}{window};qu=\"{}\"", it.limit.name, structured(it.limit.limit), it.limit.unit))
    };
    let left = |it: &Figure| {
        it.left.map(|(left, reset)| format!("\"{}\";r={};t={}", it.limit.name, structured(left), ceil_seconds(reset)))
    };
    headers.extend(list(&policy).map(|value| (RATELIMIT_POLICY.clone(), value)));
    headers.extend(list(&left).map(|value| (RATELIMIT.clone(), value)));
    headers
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
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = ceil_seconds(duration);
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (millis, text) in [(0, "0ms"), (850, "850ms"), (1_001, "2s"), (360_000, "6m0s"), (86_341_000, "23h59m1s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
