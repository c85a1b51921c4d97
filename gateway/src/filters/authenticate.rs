//! From a credential to a consumer and its tenant, and whether the route is for them.

use http::{HeaderMap, HeaderName, header};
use tollgate_llm::code;
use tollgate_model::{Caller, ConfigView, Route};

use crate::{clock, error::Rejection};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Who calls, if the route wants to know or the request says so. A credential of ours is removed from the headers.
///
/// On an open route a foreign credential is the upstream's business: it is left alone.
pub(crate) fn authenticate(
    view: &ConfigView,
    route: &Route,
    headers: &mut HeaderMap,
) -> Result<Option<Caller>, Rejection> {
    let caller = identify(view, headers)?;
    if route.auth.required || caller.is_some() {
        remove_credentials(headers);
    }
    match &caller {
        Some(caller) if !route.auth.allows(&caller.tenant.name, &caller.consumer.name) => Err(denied()),
        None if route.auth.required => Err(unknown("No known API key was given.")),
        None if !route.auth.allows("", "") => {
            Err(unknown("This route is only for some callers: an API key is needed."))
        }
        _ => Ok(caller),
    }
}

/// The credentials are never sent on.
pub(crate) fn remove_credentials(headers: &mut HeaderMap) {
    for name in [&header::AUTHORIZATION, &X_API_KEY, &API_KEY] {
        headers.remove(name);
    }
}

fn identify(view: &ConfigView, headers: &HeaderMap) -> Result<Option<Caller>, Rejection> {
    let mut keys = given(headers);
    let Some(key) = keys.next() else { return Ok(None) };
    let now = clock::now();
    let caller = view.authenticate(key, now);
    for other in keys.filter(|other| *other != key) {
        if caller.is_some() || view.authenticate(other, now).is_some() {
            return Err(unknown("The request carries two different API keys."));
        }
    }
    Ok(caller)
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
