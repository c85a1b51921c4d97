//! Fit: a stream whose whole bound can't be had is given what is left, and its provider is told so.
//!
//! The provider itself ends at the last token that was reserved, with its usage and a clear finish, so the limit is
//! exact however fast it writes. Only for streams whose output is seen: of a call that thinks in secret nothing but its
//! thoughts might fit.

use tollgate_llm::AiRequest;

/// Fewer output tokens are no answer: whoever lacks more is refused, and comes again.
const LEAST: u64 = 64;
/// Others ask at the same time, so what was left may be gone, or more may be there.
pub(super) const TRIES: usize = 3;

/// Whether less output than was asked for is better than none.
pub(super) fn may_fit(request: &AiRequest, served_models: &[String]) -> bool {
    request.stream() && request.has_output() && !served_models.iter().any(|model| request.hides_output(model))
}

/// The bound for each choice to try next, where `asked` was refused and there is room for `left` output tokens in all.
pub(super) fn next_bound(request: &AiRequest, asked: u64, left: u64) -> Option<u64> {
    let fits = request.max_tokens_within(left);
    // What is said to be there and was refused nevertheless is not to be had whole.
    let next = if fits < asked { fits } else { asked / 2 };
    (next >= LEAST).then_some(next)
}

/// The bound that is worth coming again for, should others hold it now: an answer of the `usual` length would be cut at `next`,
/// and twice as much may be there once they have ended. None where nothing is.
pub(super) fn worth_waiting_for(next: u64, usual: u64) -> Option<u64> {
    (next < usual).then(|| next.saturating_mul(2).min(usual))
}

#[cfg(test)]
mod tests {
    use tollgate_llm::Operation;

    use super::*;

    fn request(more: &str) -> AiRequest {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
        AiRequest::parse(Operation::ChatCompletions, body.into()).expect("it is well formed")
    }

    #[test]
    fn what_is_left_is_given_down_to_an_answer_that_is_worth_it() {
        let one = request("");
        for (asked, left, next) in [
            (4_000, 1_000, Some(1_000)),
            (4_000, 64, Some(64)),
            (4_000, 63, None),
            (4_000, 0, None),
            (50, 49, None),
            (4_000, 4_000, Some(2_000)),
            (100, 9_000, None),
        ] {
            assert_eq!(next_bound(&one, asked, left), next, "{asked} of {left}");
        }
    }

    #[test]
    fn choices_share_what_is_left() {
        let four = request(r#","n":4"#);
        assert_eq!(next_bound(&four, 4_000, 1_003), Some(250));
        assert!(four.output_bound_with(250) <= 1_003);
        assert_eq!(next_bound(&four, 4_000, 255), None);
    }

    #[test]
    fn who_would_be_cut_for_what_others_hold_comes_again_instead() {
        assert_eq!(worth_waiting_for(150, 150), None, "it is long enough");
        assert_eq!(worth_waiting_for(100, 1_800), Some(200));
        assert_eq!(worth_waiting_for(100, 150), Some(150));
    }

    #[test]
    fn only_streams_whose_output_is_seen_are_fitted() {
        let models = ["m".to_owned()];
        assert!(may_fit(&request(r#","stream":true"#), &models));
        assert!(!may_fit(&request(""), &models));
        assert!(!may_fit(&request(r#","stream":true"#), &["m".to_owned(), "o3-mini".to_owned()]));
        assert!(!may_fit(&request(r#","stream":true,"reasoning_effort":"high""#), &models));
    }
}
