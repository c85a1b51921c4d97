//! Who calls: bearer tokens, looked up before a byte of the message is read.

mod layer;
mod methods;
mod standing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::sync::Semaphore;
use tollgate_model::secret::ClusterKey;
use tollgate_proto::state::v1::TokenRecord;
use tonic::Status;

use crate::{
    backplane::Backplane,
    tokens::{Role, TokenTable},
};

pub(crate) use layer::AuthLayer;
pub use methods::{Access, METHODS, READING};
pub(crate) use methods::{Rule, rule};
pub(crate) use standing::Standing;

/// How long to wait for what was acknowledged elsewhere before a token counts as unknown: the node that made it may be
/// ahead of this one.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Calls with unknown tokens that may wait for that at a time; the others are refused at once, so that guessing costs
/// the cluster nothing.
const CATCH_UPS: usize = 8;
/// No token is longer: a longer one is not worth a hash.
const MAX_TOKEN_BYTES: usize = 512;

/// Who makes a call. Found in the extensions of every request that needed a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The token's id, for the record.
    pub(crate) token: Arc<str>,
    /// What the token may do.
    pub(crate) role: Role,
    /// The one tenant that it is narrowed to.
    pub(crate) tenant: Option<String>,
}

/// Looks tokens up.
#[derive(Clone)]
pub(crate) struct Authenticator {
    backplane: Arc<dyn Backplane>,
    key: Option<Arc<ClusterKey>>,
    catch_ups: Arc<Semaphore>,
}

impl Authenticator {
    pub(crate) fn new(backplane: Arc<dyn Backplane>, key: Option<Arc<ClusterKey>>) -> Self {
        Self { backplane, key, catch_ups: Arc::new(Semaphore::new(CATCH_UPS)) }
    }

    /// Who calls, if their token may do this.
    pub(crate) async fn authorize(&self, headers: &HeaderMap, access: Access) -> Result<Caller, Status> {
        let caller = self.authenticate(headers).await?;
        if access.allows(caller.role, caller.tenant.is_some()) {
            return Ok(caller);
        }
        Err(Status::permission_denied(match caller.tenant {
            Some(tenant) => format!("this token is narrowed to the usage, credits and bills of tenant {tenant}"),
            None => format!("the role {} may not do this", caller.role),
        }))
    }

    /// Who calls, whatever they may do.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        let Some(token) = bearer(headers) else {
            return Err(Status::unauthenticated("no token: send `authorization: Bearer TOKEN`"));
        };
        let Some(key) = &self.key else {
            return Err(Status::unavailable("this node has no cluster key, so it can check no token"));
        };
        let hash = key.hash_token(token);
        if let Some(caller) = self.find(&hash) {
            return Ok(caller);
        }
        self.catch_up().await;
        if let Some(caller) = self.find(&hash) {
            return Ok(caller);
        }
        if self.backplane.tokens().is_empty() {
            return Err(Status::unavailable("this node knows no token yet: it has not caught up with a cluster"));
        }
        Err(no_such_token())
    }

    fn find(&self, hash: &[u8; 32]) -> Option<Caller> {
        let table: Arc<TokenTable> = self.backplane.tokens();
        caller_of(table.find(hash, self.backplane.now())?)
    }

    /// Without a quorum there is nothing to catch up with, and the answer stays what it was.
    async fn catch_up(&self) {
        if let Ok(_permit) = self.catch_ups.try_acquire() {
            let _ = self.backplane.read_barrier(Instant::now() + CATCH_UP).await;
        }
    }
}

/// Whom a record makes of the holder of its token.
fn caller_of(record: &TokenRecord) -> Option<Caller> {
    let tenant = (!record.tenant.is_empty()).then(|| record.tenant.clone());
    Some(Caller { token: record.id.as_str().into(), role: record.role.parse().ok()?, tenant })
}

fn no_such_token() -> Status {
    Status::unauthenticated("the token is unknown, revoked or expired")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let usable = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN_BYTES;
    usable.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_token_is_taken_and_nothing_else() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
        for bad in [&[][..], &["abc"], &["Basic abc"], &["Bearer "], &["Bearer a", "Bearer a"], &[long.as_str()]] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }
}
