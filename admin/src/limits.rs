//! `LimitService`: what the accounts of limits hold, which of them a call would meet, and forgiving what was used.

use std::sync::Arc;

use prost::Message;
use tollgate_model::{Kind, Name, catalog::missing, secret::ClusterKey};
use tollgate_proto::{
    admin::v1::{
        ExplainLimitsRequest, ExplainLimitsResponse, LimitAccount, ResetLimitRequest, ResetLimitResponse,
        ShowLimitsRequest, ShowLimitsResponse, limit_service_server::LimitService,
    },
    state::v1::{AccountFigures, Command, LimitReset, LimitResetOutcome, command},
};
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use crate::{
    backplane::{AccountPage, AccountQuery, Backplane, ExplainQuery},
    call::{Call, asked, refuse_unknown_tenant, request_id_or_new, used_before},
    details::{Reason, refuse},
};

/// Accounts on a page for a caller that names no number.
const DEFAULT_PAGE: u32 = 1_000;
/// A page of these is some 2 MB.
const MAX_PAGE: u32 = 10_000;

/// The service.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) key: Option<Arc<ClusterKey>>,
}

impl Limits {
    /// A million accounts are looked through: too long for a thread that serves others.
    async fn accounts(&self, query: AccountQuery) -> Result<AccountPage, Status> {
        let backplane = Arc::clone(&self.backplane);
        let read = tokio::task::spawn_blocking(move || backplane.accounts(&query));
        read.await.map_err(|_| Status::internal("reading accounts failed"))
    }

    /// The one account that is meant. One that is not there is left to the log: the request may be another try of one that
    /// was done, before the window turned.
    async fn account_to_reset(&self, request: &ResetLimitRequest) -> Result<LimitReset, Status> {
        let by_name = request.key.is_empty();
        let query = AccountQuery {
            limit: Some(request.limit.clone()),
            account: by_name.then(|| request.account.clone()),
            key: (!by_name).then(|| request.key.clone()),
            max: 2,
            ..AccountQuery::default()
        };
        let mut found = self.accounts(query).await?.accounts;
        if found.len() > 1 {
            return Err(refuse(Reason::Refused, ambiguous(request, &found)));
        }
        let limit = request.limit.clone();
        Ok(match found.pop() {
            Some(account) => LimitReset { limit, key: account.key, actor: String::new(), overflow: account.overflow },
            None if by_name => LimitReset { limit, key: self.read_as_key(request), ..LimitReset::default() },
            None => LimitReset { limit, key: request.key.clone(), ..LimitReset::default() },
        })
    }

    /// The only way to read a name that no account has.
    fn read_as_key(&self, request: &ResetLimitRequest) -> Vec<String> {
        if request.account == "*" {
            return Vec::new();
        }
        vec![request.account.clone()]
    }

    fn refuse_unknown_limit(&self, limit: &str) -> Result<(), Status> {
        let catalog = Arc::clone(&self.backplane.config().borrow().catalog);
        let limits = catalog.kind(Kind::Limit);
        if limits.contains_key(limit) {
            return Ok(());
        }
        let message = missing(Kind::Limit, limit, limits.keys().map(Name::as_str));
        Err(refuse(Reason::NotFound, message))
    }
}

fn ambiguous(request: &ResetLimitRequest, found: &[LimitAccount]) -> String {
    let keys: Vec<String> = found.iter().map(|account| format!("{:?}", account.key)).collect();
    format!(
        "several accounts of limit {} are called {}, as values hold a slash: name the values one by one, as in {}",
        request.limit,
        request.account,
        keys.join(" or ")
    )
}

#[async_trait]
impl LimitService for Limits {
    async fn show(&self, request: Request<ShowLimitsRequest>) -> Result<Response<ShowLimitsResponse>, Status> {
        let call = Call::of(&request)?;
        let ShowLimitsRequest { limit, tenant, page_size, page_token, sort, min_utilisation_percent } =
            request.into_inner();
        let max = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
        let named = |name: String| (!name.is_empty()).then_some(name);
        let by_utilisation = match sort.as_str() {
            "" | "name" => false,
            "utilisation" => true,
            other => return Err(refuse(Reason::Invalid, format!("sort: `{other}` is unknown: name | utilisation"))),
        };
        let query = AccountQuery {
            limit: named(limit),
            tenant: named(tenant),
            min_utilisation_percent,
            by_utilisation,
            after: page_token.clone(),
            max: usize::try_from(max).expect("a page fits"),
            ..AccountQuery::default()
        };
        self.backplane.read_barrier(call.deadline).await?;
        let (limit, tenant) = (query.limit.clone(), query.tenant.clone());
        let page = self.accounts(query).await?;
        let is_empty = page.accounts.is_empty() && page_token.is_empty();
        refuse_unknown_tenant(&*self.backplane, tenant.as_deref(), is_empty)?;
        if let Some(limit) = limit.filter(|_| is_empty) {
            self.refuse_unknown_limit(&limit)?;
        }
        let AccountPage { accounts, next, taking_effect } = page;
        Ok(Response::new(ShowLimitsResponse { accounts, next_page_token: next, taking_effect }))
    }

    async fn explain(&self, request: Request<ExplainLimitsRequest>) -> Result<Response<ExplainLimitsResponse>, Status> {
        let call = Call::of(&request)?;
        let ExplainLimitsRequest { consumer, model, route } = request.into_inner();
        let named = |name: String| (!name.is_empty()).then_some(name);
        self.backplane.read_barrier(call.deadline).await?;
        let backplane = Arc::clone(&self.backplane);
        let query = ExplainQuery { consumer, model: named(model), route: named(route) };
        let explained = tokio::task::spawn_blocking(move || backplane.explain(&query));
        let explained = explained.await.map_err(|_| Status::internal("explaining limits failed"))?;
        let verdicts = explained.map_err(|message| refuse(Reason::NotFound, message))?;
        Ok(Response::new(ExplainLimitsResponse { verdicts }))
    }

    async fn reset(&self, request: Request<ResetLimitRequest>) -> Result<Response<ResetLimitResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let id = request_id_or_new(&request.request_id)?;
        self.backplane.read_barrier(call.deadline).await?;
        self.refuse_unknown_limit(&request.limit)?;
        let said = ResetLimitRequest { request_id: Vec::new(), ..request.clone() };
        let asked = asked(self.key.as_deref(), "reset limit", &said);
        let reset = LimitReset { actor: call.caller.token.to_string(), ..self.account_to_reset(&request).await? };
        let command = Command { kind: Some(command::Kind::LimitReset(reset)), asked };
        let committed = self.backplane.propose(id, command, call.deadline).await?;
        let outcome = LimitResetOutcome::decode(committed.outcome).map_err(|_| used_before())?;
        if !outcome.problem.is_empty() {
            let see = format!("see `tollgate limits show --limit {}`", request.limit);
            let named = if request.key.is_empty() { format!("`{}`: ", request.account) } else { String::new() };
            return Err(refuse(Reason::NotFound, format!("{named}{}; {see}", outcome.problem)));
        }
        let (Some(before), Some(after)) = (outcome.before, outcome.after) else { return Err(used_before()) };
        info!(
            index = committed.index.0,
            token = %call.caller.token,
            limit = request.limit,
            account = request.account,
            used = before.used,
            overrun = before.overrun,
            "limit account reset"
        );
        let shown = |figures: AccountFigures| Some(shown(&request, figures));
        Ok(Response::new(ResetLimitResponse { index: committed.index.0, before: shown(before), after: shown(after) }))
    }
}

fn shown(request: &ResetLimitRequest, figures: AccountFigures) -> LimitAccount {
    let AccountFigures { capacity, used, held, leased, suspense, overrun, free } = figures;
    let account = if request.key.is_empty() { request.account.clone() } else { request.key.join("/") };
    LimitAccount {
        limit: request.limit.clone(),
        account,
        key: request.key.clone(),
        capacity,
        used,
        held,
        leased,
        suspense,
        overrun,
        free,
        ..LimitAccount::default()
    }
}
