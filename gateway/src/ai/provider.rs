//! What a provider is sent, and which of its headers come back.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use tollgate_llm::{AiRequest, Dialect, MaxTokens, ProviderRequest, RequestError};
use tollgate_model::ProviderType;

use crate::{
    body::UpstreamRequestBody,
    exchange::Exchange,
    filters::remove_credentials,
    headers,
    hops::Hop,
    upstream::{KeyTaken, ProviderUpstream, Taken},
};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static X_TOLLGATE_PROVIDER: HeaderName = HeaderName::from_static("x-tollgate-provider");
static X_TOLLGATE_MODEL: HeaderName = HeaderName::from_static("x-tollgate-model");

/// Of an answer's headers: what speaks of the provider's connection, its account with us, or itself.
const PRIVATE: [HeaderName; 9] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::SET_COOKIE,
    header::SERVER,
    header::DATE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    header::CONTENT_ENCODING,
    header::TRAILER,
];
/// What OpenAI and those like it, Anthropic, Azure and Bedrock call a request of ours.
const UPSTREAM_IDS: [&str; 4] = ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid"];
/// Theirs have 24 to 40.
const MAX_UPSTREAM_ID_BYTES: usize = 128;
const PRIVATE_PREFIXES: [&str; 4] = ["x-ratelimit-", "anthropic-ratelimit-", "ratelimit", "x-tollgate-"];

pub(super) fn dialect(provider: ProviderType) -> Dialect {
    match provider {
        ProviderType::OpenAi => Dialect::OpenAi,
        ProviderType::Anthropic => Dialect::Anthropic,
    }
}

/// The request in the provider's words, to this endpoint with this key. None where that has no such address.
pub(super) fn request(
    exchange: &Exchange,
    provider: &ProviderUpstream,
    (taken, key): (&Taken, Option<&KeyTaken>),
    ai: &AiRequest,
    model: &str,
    max_tokens: MaxTokens,
) -> Result<Option<Request<UpstreamRequestBody>>, RequestError> {
    let dialect = dialect(provider.provider.dialect);
    let ProviderRequest { path, body, headers } = ai.for_provider(dialect, model, max_tokens)?;
    let Some(uri) = taken.uri(path) else { return Ok(None) };
    let mut request = Request::new(UpstreamRequestBody::Whole(Some(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = outgoing_headers(exchange, provider, key.and_then(KeyTaken::value));
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            request.headers_mut().entry(name).or_insert(value);
        }
    }
    Ok(Some(request))
}

/// A request without a body to the provider, as for its list of models.
pub(super) fn plain_headers(provider: &ProviderUpstream, hop: &Hop) -> HeaderMap {
    let mut headers = HeaderMap::new();
    hop.add(&mut headers);
    authenticate(&mut headers, provider, provider.keys.any());
    name_version(&mut headers, provider);
    headers
}

/// The client's headers, but for its credential, what is said of it on the way here, and what we set ourselves.
pub(super) fn outgoing_headers(
    exchange: &Exchange,
    provider: &ProviderUpstream,
    key: Option<&HeaderValue>,
) -> HeaderMap {
    let record = &exchange.record;
    let mut headers = headers::sanitized_request(&exchange.head.headers, &record.request_id, &record.trace);
    headers::remove_forwarded(&mut headers);
    remove_credentials(&mut headers);
    headers.remove(header::COOKIE);
    headers.remove(header::CONTENT_ENCODING);
    if let Some(traffic) = &exchange.plan.route.traffic {
        traffic.request_headers.apply(&mut headers);
    }
    exchange.shared.hop.add(&mut headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    authenticate(&mut headers, provider, key);
    name_version(&mut headers, provider);
    headers
}

/// Anthropic refuses a request that names no version of its API; a caller that does is not contradicted.
fn name_version(headers: &mut HeaderMap, provider: &ProviderUpstream) {
    if provider.provider.dialect == ProviderType::Anthropic {
        headers.entry("anthropic-version").or_insert(HeaderValue::from_static("2023-06-01"));
    }
}

fn authenticate(headers: &mut HeaderMap, provider: &ProviderUpstream, key: Option<&HeaderValue>) {
    let Some(key) = key else { return };
    let name = match provider.provider.dialect {
        ProviderType::OpenAi => header::AUTHORIZATION,
        ProviderType::Anthropic => X_API_KEY.clone(),
    };
    headers.insert(name, key.clone());
}

/// The headers of an answer: the provider's own where they are the caller's business, and who served it.
pub(super) fn answer_headers(mut headers: HeaderMap, provider: &ProviderUpstream, model: &str) -> HeaderMap {
    headers::remove_hop_by_hop(&mut headers);
    for name in PRIVATE {
        headers.remove(name);
    }
    headers::remove_prefixed(&mut headers, &PRIVATE_PREFIXES);
    served_by(&mut headers, provider, model);
    headers
}

/// What the provider calls a request, by whichever of the names that providers have for that. None that is too long to be kept.
pub(super) fn upstream_id(headers: &HeaderMap) -> Option<String> {
    let id = UPSTREAM_IDS.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    (!id.is_empty() && id.len() <= MAX_UPSTREAM_ID_BYTES).then(|| id.to_owned())
}

pub(super) fn served_by(headers: &mut HeaderMap, provider: &ProviderUpstream, model: &str) {
    for (name, value) in [(&X_TOLLGATE_PROVIDER, provider.provider.name.as_str()), (&X_TOLLGATE_MODEL, model)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_names_a_request_in_one_of_a_few_headers_and_not_at_any_length() {
        let id = |name: &'static str, value: &str| {
            upstream_id(&HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]))
        };
        assert_eq!(id("request-id", "req_011"), Some("req_011".to_owned()));
        assert_eq!(id("x-request-id", "a"), Some("a".to_owned()));
        assert_eq!(id("x-other", "a"), None);
        assert_eq!(id("x-request-id", ""), None);
        assert_eq!(id("x-request-id", &"a".repeat(128)).map(|id| id.len()), Some(128));
        assert_eq!(id("x-request-id", &"a".repeat(129)), None);
    }
}
