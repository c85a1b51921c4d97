//! From a credential to a consumer and its tenant, and whether the route is for them.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tollgate_llm::code;
use tollgate_model::{Caller, ConfigView, Route, Timestamp};

use crate::{clock, error::Rejection};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Who calls, if the route wants to know or the request says so. A credential of ours is removed from the headers.
///
/// On an open route a foreign credential is the upstream's business: it is left alone, also beside one of ours.
pub(crate) fn authenticate(
    view: &ConfigView,
    route: &Route,
    headers: &mut HeaderMap,
) -> Result<Option<Caller>, Rejection> {
    // Most requests to services bring nothing that could be one.
    let has_any = headers.keys().any(|name| places().contains(&name));
    let caller = if has_any { identify(view, headers, route.auth.required)? } else { None };
    let is_given = has_any && given(headers).next().is_some();
    if has_any && route.auth.required {
        remove_credentials(headers);
    } else if has_any {
        remove_ours(view, headers);
    }
    match &caller {
        Some(caller) if !route.auth.allows(&caller.tenant.name, &caller.consumer.name) => Err(denied()),
        None if route.auth.required => Err(nobody(view, is_given, "No known API key was given.")),
        None if !route.auth.allows("", "") => {
            Err(nobody(view, is_given, "This route is only for some callers: an API key is needed."))
        }
        _ => Ok(caller),
    }
}

/// Who seems to call, before the route is known that says whether that has to be somebody.
pub(crate) fn caller_ahead(view: &ConfigView, headers: &HeaderMap) -> Option<Caller> {
    identify(view, headers, false).ok().flatten()
}

/// What of the headers may hold a credential of ours.
pub(crate) fn credentials(headers: &HeaderMap) -> HeaderMap {
    let mut credentials = HeaderMap::new();
    for name in places() {
        for value in headers.get_all(name) {
            credentials.append(name, value.clone());
        }
    }
    credentials
}

/// The credentials are never sent on.
pub(crate) fn remove_credentials(headers: &mut HeaderMap) {
    for name in places() {
        headers.remove(name);
    }
}

fn places() -> [&'static HeaderName; 3] {
    [&header::AUTHORIZATION, &X_API_KEY, &API_KEY]
}

/// Removes the values that hold a key of a consumer's, in whatever scheme and even if it has expired, and no other.
fn remove_ours(view: &ConfigView, headers: &mut HeaderMap) {
    let is_key = |text: &str| view.authenticate(text.trim(), Timestamp(0)).is_some();
    let is_ours = |value: &HeaderValue| {
        let Ok(text) = value.to_str() else { return false };
        is_key(text) || text.trim().split_once(' ').is_some_and(|(_scheme, key)| is_key(key))
    };
    for name in places() {
        if headers.get_all(name).iter().any(is_ours) {
            let foreign: Vec<HeaderValue> =
                headers.get_all(name).iter().filter(|value| !is_ours(value)).cloned().collect();
            headers.remove(name);
            for value in foreign {
                headers.append(name, value);
            }
        }
    }
}

/// Two keys of ours could mean two callers. Where one is needed, another key beside it is no less ambiguous.
fn identify(view: &ConfigView, headers: &HeaderMap, required: bool) -> Result<Option<Caller>, Rejection> {
    let now = clock::now();
    let mut first = None;
    let mut differ = false;
    let mut known: Option<(&str, Caller)> = None;
    for key in given(headers) {
        differ |= *first.get_or_insert(key) != key;
        if known.as_ref().is_some_and(|(other, _)| *other == key) {
            continue;
        }
        if let Some(caller) = view.authenticate(key, now)
            && known.replace((key, caller)).is_some()
        {
            return Err(two_keys());
        }
    }
    match known {
        Some(_) if required && differ => Err(two_keys()),
        known => Ok(known.map(|(_, caller)| caller)),
    }
}

fn two_keys() -> Rejection {
    unknown("The request carries two different API keys.")
}

/// All API keys of a request: in `Authorization: Bearer`, `x-api-key` and `api-key`.
fn given(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let plain = [&X_API_KEY, &API_KEY].into_iter().flat_map(|name| headers.get_all(name));
    let plain = plain.filter_map(|value| value.to_str().ok()).map(str::trim);
    bearer.chain(plain).filter(|key| !key.is_empty())
}

/// A node under another cluster key knows nobody: a key that is unknown to it may be good on every other node.
fn nobody(view: &ConfigView, is_given: bool, message: &str) -> Rejection {
    match view.other_cluster_key() {
        Some(_) if is_given => {
            Rejection::new(503, code::QUOTA_UNAVAILABLE, "This node can't check API keys now: try another node.")
        }
        _ => unknown(message),
    }
}

fn unknown(message: &str) -> Rejection {
    Rejection::new(401, code::INVALID_API_KEY, message)
}

fn denied() -> Rejection {
    Rejection::new(403, code::ACCESS_DENIED, "This API key may not be used here.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_all_three_places() {
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, "bearer  a ".parse().unwrap());
        headers.append(header::AUTHORIZATION, "Basic eDp5".parse().unwrap());
        headers.append("x-api-key", "b".parse().unwrap());
        headers.append("api-key", "c".parse().unwrap());
        headers.append("api-key", " ".parse().unwrap());
        assert_eq!(given(&headers).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
