//! AI routes: the request is read, bounded and reserved for; sent to one provider or the next; its answer relayed in
//! the caller's dialect while its usage is read.

mod admit;
mod answer;
mod attempt;
mod fit;
mod growing;
mod holding;
mod leave;
mod models;
mod pace;
mod provider;
mod quiet;
pub(crate) mod realtime;
mod settle;
mod stream;

use http::{HeaderName, HeaderValue, Method, Response};
use tollgate_llm::{AiRequest, MaxTokens, Operation, code};

use crate::{
    body::ResponseBody,
    error::Rejection,
    exchange::{self, Exchange, RequestBody},
    filters,
};
pub(crate) use models::ModelLists;
pub(crate) use pace::Paces;
pub(crate) use realtime::Realtime;
pub(crate) use stream::AiStream;

/// The bound on output that the provider was sent in place of the caller's own, or of none.
static X_TOLLGATE_MAX_TOKENS: HeaderName = HeaderName::from_static("x-tollgate-max-tokens");

/// Serves one request of an AI route.
pub(crate) async fn serve(exchange: &mut Exchange) -> Result<Response<ResponseBody>, Rejection> {
    if realtime::is_asked_for(&exchange.head, &exchange.target.path) {
        return Box::pin(realtime::open(exchange)).await;
    }
    let (method, path) = (&exchange.head.method, &exchange.target.path);
    match Operation::from_path(method.as_str(), path) {
        None => Err(unserved(method, path)),
        Some(Operation::Image | Operation::Audio) => {
            Err(Rejection::not_supported("Image and audio endpoints are not supported yet."))
        }
        Some(Operation::Models) => models::list(exchange).await,
        Some(Operation::Model) => models::one(exchange).await,
        Some(_) => {
            let request = read(exchange).await?;
            exchange.record.model = Some(request.model().chars().take(100).collect());
            exchange.model = Some(request.model().to_owned());
            Box::pin(call(exchange, request)).await
        }
    }
}

/// A path below an AI route that names nothing that is served.
fn unserved(method: &Method, path: &str) -> Rejection {
    let shown: String = path.chars().take(100).collect();
    let other = if method == Method::POST { Method::GET } else { Method::POST };
    if Operation::from_path(other.as_str(), path).is_some() {
        return Rejection::new(404, code::ROUTE_NOT_FOUND, format!("`{shown}` is for {other}, not for {method}."));
    }
    if Operation::is_unserved_endpoint(path) {
        return Rejection::not_supported(format!("The endpoint `{method} {shown}` is not supported."));
    }
    let message = format!("`{method} {shown}` is no endpoint of an AI API that is served here.");
    Rejection::new(404, code::ROUTE_NOT_FOUND, message)
}

/// The request, parsed once: maybe when its route was sought.
async fn read(exchange: &mut Exchange) -> Result<AiRequest, Rejection> {
    let limit = exchange.plan.route.body_limit_bytes;
    let ai = match exchange.body.take() {
        RequestBody::Unread(body) => {
            let room = exchange.room.insert(exchange.shared.overload.room(exchange::rank(exchange)));
            exchange::read_ai(&exchange.head.method, &exchange.target.path, body, limit, room).await?.1
        }
        RequestBody::Read(body, _) if body.len() as u64 > limit => {
            return Err(crate::body::BodyFault::TooLarge { limit }.into());
        }
        RequestBody::Read(_, ai) => ai,
    };
    ai.ok_or_else(Rejection::route_not_found)
}

async fn call(exchange: &mut Exchange, request: AiRequest) -> Result<Response<ResponseBody>, Rejection> {
    let mut admitted = admit::admit(exchange, &request).await?;
    exchange.record.unprotected = filters::admit::unprotected(&admitted.reservation);
    let mut headers = std::mem::take(&mut admitted.headers);
    if let MaxTokens::Set(max) = admitted.max_tokens {
        headers.insert(&X_TOLLGATE_MAX_TOKENS, HeaderValue::from(max));
    }
    match attempt::send(exchange, &request, admitted).await {
        Ok(mut answer) => {
            // A fallback may have been sent another bound.
            if answer.headers().contains_key(&X_TOLLGATE_MAX_TOKENS) {
                headers.remove(&X_TOLLGATE_MAX_TOKENS);
            }
            let told = answer.headers_mut();
            told.reserve(headers.len());
            told.extend(headers);
            Ok(answer)
        }
        Err(rejection) => Err(rejection.with_headers(&headers)),
    }
}
