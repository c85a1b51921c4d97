//! Sending a request once more to the same upstream: whether, when, and to which endpoint.

use std::time::Duration;

use http::{HeaderMap, header};
use tokio::time::{Instant, sleep};
use tollgate_model::{Failure, Retries, Route};

use crate::{
    balance::{self, Draw, Tried},
    exchange::Exchange,
    upstream::{Again, Endpoints},
};

/// An upstream that asks for more patience than that is not waited for: the caller is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is left of a route's retries for one request, whichever upstream it is sent to.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    retries: Option<&'a Retries>,
    done: u32,
    /// Requests that were sent while another one was waited for.
    hedges: u32,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met {
    pub(crate) failure: Failure,
    /// The upstream may have begun to work.
    pub(crate) may_have_begun: bool,
    /// To do it twice is to do it once.
    pub(crate) is_idempotent: bool,
    /// What the upstream asked for.
    pub(crate) retry_after: Option<Duration>,
}

impl<'a> Left<'a> {
    pub(crate) fn of(route: &'a Route) -> Self {
        Self { retries: route.retries.as_ref(), done: 0, hedges: 0 }
    }

    /// How long an answer is waited for before somebody else is asked as well. None where nobody else is.
    pub(crate) fn hedge_after(&self) -> Option<Duration> {
        let hedge = self.retries?.hedge.filter(|hedge| self.hedges < hedge.max)?;
        Some(hedge.after)
    }

    /// Leave to ask one of those `endpoints` as well that were not `tried`. None where there is none, or too many requests are sent again
    /// already.
    pub(crate) fn hedge(&mut self, endpoints: &Endpoints, tried: &Tried) -> Option<Again> {
        let leave = if endpoints.has_others(tried) { endpoints.again() } else { None };
        self.hedges += u32::from(leave.is_some());
        leave
    }

    /// Whether the route would rather have another answer than one with this status.
    pub(crate) fn is_failure(&self, status: u16) -> bool {
        status >= 500 || self.retries.is_some_and(|retries| retries.on.contains(Failure::Status(status)))
    }

    /// Waits until a request that `met` this may be sent once more. None where it may not: the route doesn't say so, too many
    /// are sent again already, or there is no time.
    pub(crate) async fn wait(
        &mut self,
        endpoints: &Endpoints,
        tried: &Tried,
        met: Met,
        deadline: Instant,
    ) -> Option<Again> {
        let retries = self.retries.filter(|retries| self.done < retries.attempts)?;
        if !retries.allow(met.failure, met.may_have_begun, met.is_idempotent) {
            return None;
        }
        // What one endpoint asks for says nothing of another.
        let asked = met.retry_after.filter(|_| !endpoints.has_others(tried)).unwrap_or_default();
        let pause = balance::pause(self.done + 1, rand::random()).max(asked);
        if asked > PATIENCE || Instant::now() + pause >= deadline {
            return None;
        }
        let leave = endpoints.again()?;
        self.done += 1;
        sleep(pause).await;
        Some(leave)
    }
}

/// Whether an endpoint that was asked at `asked`, and brought no answer until now, had time for one. Not where the `whole`
/// request's time was over, most of which had gone elsewhere: that says nothing of it.
pub(crate) fn had_time(asked: Instant, deadline: Instant, whole: Duration) -> bool {
    Instant::now() < deadline || deadline.saturating_duration_since(asked) >= whole / 2
}

/// What this request's endpoint is selected by.
pub(crate) fn draw(exchange: &Exchange, endpoints: &Endpoints) -> Draw {
    let value = endpoints.hash_on().map(|part| exchange.subject(None).sent_value(part));
    let hash = value.filter(|value| !value.is_empty()).map(|value| balance::hash(&value));
    Draw { hash, random: rand::random() }
}

/// What an answer asks for; a time of day is longer than anybody waits here.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    Some(seconds.map_or(Duration::MAX, Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_asked_when_a_request_was_nearly_over_had_no_time() {
        let (secs, start) = (Duration::from_secs, Instant::now());
        let (whole, deadline) = (secs(10), start + secs(10));
        assert!(had_time(start + secs(9), deadline, whole), "it is not over yet");
        tokio::time::advance(whole).await;
        for (after, had) in [(0, true), (5, true), (6, false), (10, false), (11, false)] {
            assert_eq!(had_time(start + secs(after), deadline, whole), had, "{after}");
        }
    }

    #[test]
    fn an_upstream_says_in_seconds_how_long_it_wants_to_be_left_alone() {
        let said = |text| retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]));
        assert_eq!(retry_after(&HeaderMap::new()), None);
        assert_eq!(said("2"), Some(Duration::from_secs(2)));
        assert_eq!(said("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::MAX));
    }
}
