//! AI routes: the request is read, bounded and reserved for; sent to one provider or the next; its answer relayed in
//! the caller's dialect while its usage is read.

mod admit;
mod answer;
mod attempt;
mod models;
mod provider;
mod settle;
mod stream;

use http::Response;
use tollgate_llm::{AiRequest, Operation};

use crate::{
    body::ResponseBody,
    error::Rejection,
    exchange::{self, Exchange, RequestBody},
};
pub(crate) use models::ModelLists;
pub(crate) use stream::AiStream;

/// Serves one request of an AI route.
pub(crate) async fn serve(exchange: &mut Exchange) -> Result<Response<ResponseBody>, Rejection> {
    let (method, path) = (&exchange.head.method, &exchange.target.path);
    match Operation::from_path(method.as_str(), path) {
        None => Err(Rejection::route_not_found()),
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

/// The request, parsed once: maybe when its route was sought.
async fn read(exchange: &mut Exchange) -> Result<AiRequest, Rejection> {
    let limit = exchange.plan.route.body_limit_bytes;
    let ai = match exchange.body.take() {
        RequestBody::Unread(body) => {
            exchange::read_ai(&exchange.head.method, &exchange.target.path, body, limit).await?.1
        }
        RequestBody::Read(body, _) if body.len() as u64 > limit => {
            return Err(crate::body::BodyFault::TooLarge { limit }.into());
        }
        RequestBody::Read(_, ai) => ai,
    };
    ai.ok_or_else(Rejection::route_not_found)
}

async fn call(exchange: &mut Exchange, request: AiRequest) -> Result<Response<ResponseBody>, Rejection> {
    let admitted = admit::admit(exchange, &request).await?;
    let limit_headers = admitted.headers.clone();
    match attempt::send(exchange, &request, admitted).await {
        Ok(mut answer) => {
            answer.headers_mut().extend(limit_headers);
            Ok(answer)
        }
        Err(rejection) => Err(rejection.with_headers(&limit_headers)),
    }
}
