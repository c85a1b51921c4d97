//! Admin tokens: made, listed, revoked. The secret goes to the caller once; the log gets its keyed hash.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tollgate_model::{Name, Timestamp, parse_duration, secret::ClusterKey};
use tollgate_proto::{
    admin::v1::{
        CreateTokenRequest, CreateTokenResponse, ListTokensResponse, RevokeTokenRequest, RevokeTokenResponse, Token,
    },
    state::v1::{Command, TokenChange, TokenOutcome, TokenRecord, command, token_change},
};
use tonic::Status;
use tracing::info;

use super::Cluster;
use crate::{
    backplane::RequestId,
    call::{Call, asked, request_id_or_new, unknown_tenant, used_before},
    details::{Reason, refuse},
    tokens::Role,
};

/// Bytes of a token's public id.
const ID_BYTES: usize = 6;
/// What the keyed hash that a secret is made of begins with. No header can hold a NUL, so no bearer token ever has the
/// same input.
const SECRET_OF: &str = "\0secret of request ";
const ID_OF: &str = "\0id of request ";

impl Cluster {
    /// The secret follows from the request id under the cluster key: the same request tried again, here or on another
    /// node, gives the same secret, and nobody without the key can work it out.
    pub(super) async fn create_token(
        &self,
        call: &Call,
        request: CreateTokenRequest,
    ) -> Result<CreateTokenResponse, Status> {
        let role: Role = request.role.parse().map_err(|unknown| refuse(Reason::Invalid, format!("{unknown}")))?;
        may_give(call, role, "make")?;
        if !request.tenant.is_empty() && Name::parse(&request.tenant).is_err() {
            return Err(refuse(Reason::Invalid, format!("`{}` is no tenant's name", request.tenant)));
        }
        let ttl = parse_ttl(&request.ttl)?;
        self.check_tenant(call, &request.tenant).await?;
        let id = request_id_or_new(&request.request_id)?;
        let said = CreateTokenRequest { request_id: Vec::new(), ..request.clone() };
        let asked = asked(self.key.as_deref(), "create token", &said);
        let key = self
            .key
            .as_ref()
            .ok_or_else(|| refuse(Reason::Refused, "this node has no cluster key to hash a token with"))?;
        let secret = secret(key, role, id);
        let record = TokenRecord {
            id: hex::encode(&derive(key, ID_OF, id)[..ID_BYTES]),
            role: role.to_string(),
            tenant: request.tenant,
            hash: key.hash_token(&secret).to_vec(),
            expires_us: ttl.map_or(0, |ttl| self.backplane.now().saturating_add(ttl).0),
            created_us: 0,
        };
        let public = record.id.clone();
        let made = self.change_tokens(call, id, asked, &public, token_change::Kind::Create(record)).await?;
        info!(token = %call.caller.token, created = %made.id, role = %made.role, "admin token created");
        Ok(CreateTokenResponse { token: Some(shown(&made)), secret })
    }

    /// A token that is narrowed to a tenant that there is not would be good for nothing, or for whoever gets that name.
    async fn check_tenant(&self, call: &Call, tenant: &str) -> Result<(), Status> {
        if tenant.is_empty() {
            return Ok(());
        }
        self.backplane.read_barrier(call.deadline).await?;
        match unknown_tenant(&*self.backplane, tenant) {
            Some(message) => Err(refuse(Reason::Invalid, format!("tenant: {message}"))),
            None => Ok(()),
        }
    }

    pub(super) async fn list_tokens(&self, call: &Call) -> Result<ListTokensResponse, Status> {
        self.backplane.read_barrier(call.deadline).await?;
        let tokens = self.backplane.tokens();
        Ok(ListTokensResponse { tokens: tokens.list(self.backplane.now()).map(shown).collect() })
    }

    pub(super) async fn revoke_token(
        &self,
        call: &Call,
        request: RevokeTokenRequest,
    ) -> Result<RevokeTokenResponse, Status> {
        self.check_revoked(call, &request.id).await?;
        let id = request_id_or_new(&request.request_id)?;
        let said = RevokeTokenRequest { request_id: Vec::new(), ..request.clone() };
        let asked = asked(self.key.as_deref(), "revoke token", &said);
        let revoke = token_change::Kind::Revoke(request.id.clone());
        self.change_tokens(call, id, asked, &request.id, revoke).await?;
        info!(token = %call.caller.token, revoked = %request.id, "admin token revoked");
        Ok(RevokeTokenResponse {})
    }

    /// What a token may do never changes, so that a look before the log is enough. One that is gone is left to the log:
    /// the request may be another try of the one that revoked it.
    async fn check_revoked(&self, call: &Call, id: &str) -> Result<(), Status> {
        if Role::ALL.into_iter().all(|role| call.caller.role.gives(role)) {
            return Ok(());
        }
        self.backplane.read_barrier(call.deadline).await?;
        let tokens = self.backplane.tokens();
        let record = tokens.get(id, self.backplane.now());
        let role = record.and_then(|record| record.role.parse().ok());
        role.map_or(Ok(()), |role| may_give(call, role, "revoke"))
    }

    /// Makes the change, whose outcome must be about `token`.
    async fn change_tokens(
        &self,
        call: &Call,
        id: RequestId,
        asked: Bytes,
        token: &str,
        kind: token_change::Kind,
    ) -> Result<TokenRecord, Status> {
        let command = Command { kind: Some(command::Kind::Token(TokenChange { kind: Some(kind) })), asked };
        let committed = self.backplane.propose(id, command, call.deadline).await?;
        let outcome = TokenOutcome::decode(committed.outcome).map_err(|_| used_before())?;
        if !outcome.done && !outcome.problem.is_empty() {
            return Err(refuse(Reason::Refused, outcome.problem));
        }
        outcome.token.filter(|made| outcome.done && made.id == token).ok_or_else(used_before)
    }
}

fn may_give(call: &Call, role: Role, what: &str) -> Result<(), Status> {
    let own = call.caller.role;
    if own.gives(role) {
        return Ok(());
    }
    Err(Status::permission_denied(format!("the role {own} may not {what} a token of role {role}")))
}

fn parse_ttl(text: &str) -> Result<Option<Duration>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    match parse_duration(text) {
        Ok(ttl) if ttl.is_zero() => Err(refuse(Reason::Invalid, "ttl: must be more than nothing")),
        Ok(ttl) => Ok(Some(ttl)),
        Err(problem) => Err(refuse(Reason::Invalid, format!("ttl: {problem}"))),
    }
}

fn secret(key: &ClusterKey, role: Role, id: RequestId) -> String {
    format!("tg-{role}-{}", hex::encode(derive(key, SECRET_OF, id)))
}

fn derive(key: &ClusterKey, purpose: &str, id: RequestId) -> [u8; 32] {
    key.hash_token(&format!("{purpose}{}", hex::encode(id)))
}

fn shown(record: &TokenRecord) -> Token {
    let time = |us: u64| if us == 0 { String::new() } else { Timestamp(us).to_string() };
    Token {
        id: record.id.clone(),
        role: record.role.clone(),
        tenant: record.tenant.clone(),
        created_at: time(record.created_us),
        expires_at: time(record.expires_us),
    }
}
