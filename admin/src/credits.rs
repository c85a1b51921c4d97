//! `CreditService`: what tenants have paid in, what is left of it, and who gave it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{civil::Date, tz::TimeZoneDatabase};
use prost::Message;
use tollgate_billing::{MAX_BALANCE, OpenGrant as Open, amount_bytes};
use tollgate_model::{BillingMode, Checked, Kind, Money, Tenant, Timestamp, secret::ClusterKey};
use tollgate_proto::{
    admin::v1::{
        Credit, CreditEvent, CreditHistoryRequest, CreditHistoryResponse, GrantCreditRequest, GrantCreditResponse,
        OpenGrant, ShowCreditRequest, ShowCreditResponse, credit_service_server::CreditService,
    },
    state::v1::{Command, CreditEventKind, CreditEventRow, CreditGrant, CreditGrantOutcome, command},
};
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use crate::{
    auth::Caller,
    backplane::{Backplane, CreditState},
    call::{Call, asked, request_id_or_new, unknown_tenant, used_before},
    cluster::UNREACHABLE,
    details::{Reason, refuse},
};

/// Events on a page for a caller that names no number.
const DEFAULT_PAGE: u32 = 1_000;
const MAX_PAGE: u32 = 10_000;
/// A node that has not said by then that it is there is away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone)]
pub(crate) struct Credits {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) key: Option<Arc<ClusterKey>>,
}

#[async_trait]
impl CreditService for Credits {
    async fn grant(&self, request: Request<GrantCreditRequest>) -> Result<Response<GrantCreditResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let tenant = tenant_of(&call.caller, &request.tenant)?;
        let id = request_id_or_new(&request.request_id)?;
        self.backplane.read_barrier(call.deadline).await?;
        let grant = self.read(&tenant, &request, &call.caller)?;
        let said = GrantCreditRequest { request_id: Vec::new(), ..request };
        let asked = asked(self.key.as_deref(), "grant credit", &said);
        let command = Command { kind: Some(command::Kind::CreditGrant(grant)), asked };
        let committed = self.backplane.propose(id, command, call.deadline).await?;
        let outcome = CreditGrantOutcome::decode(committed.outcome).map_err(|_| used_before())?;
        let CreditGrantOutcome { problem, known, event } = outcome;
        if !problem.is_empty() {
            return Err(refuse(if known { Reason::Conflict } else { Reason::Refused }, problem));
        }
        let event = event.ok_or_else(used_before)?;
        info!(index = committed.index.0, token = %call.caller.token, tenant, key = said.key, known, "credit granted");
        // What it has come to: of this node, which may have to hear of it first.
        self.backplane.read_barrier(call.deadline).await?;
        let credit = Some(self.credit(&tenant, call.deadline).await?);
        Ok(Response::new(GrantCreditResponse { index: event.log_index, credit, known, event: Some(told(&event)) }))
    }

    async fn show(&self, request: Request<ShowCreditRequest>) -> Result<Response<ShowCreditResponse>, Status> {
        let call = Call::of(&request)?;
        let tenant = tenant_of(&call.caller, &request.into_inner().tenant)?;
        self.backplane.read_barrier(call.deadline).await?;
        Ok(Response::new(ShowCreditResponse { credit: Some(self.credit(&tenant, call.deadline).await?) }))
    }

    async fn history(&self, request: Request<CreditHistoryRequest>) -> Result<Response<CreditHistoryResponse>, Status> {
        let call = Call::of(&request)?;
        let CreditHistoryRequest { tenant, page_size, page_token } = request.into_inner();
        let tenant = tenant_of(&call.caller, &tenant)?;
        let max = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
        let max = usize::try_from(max).expect("a page fits");
        let before = match page_token.as_str() {
            "" => None,
            token => {
                let wrong = |_| refuse(Reason::Invalid, "page_token: is none of an earlier answer");
                Some(token.parse::<u64>().map_err(wrong)?)
            }
        };
        self.backplane.read_barrier(call.deadline).await?;
        let events = self.backplane.credit_history(&tenant, before, max + 1);
        if events.is_empty() && before.is_none() {
            self.refuse_unknown(&tenant)?;
        }
        let next = if events.len() > max { events[max - 1].event.to_string() } else { String::new() };
        let events = events.iter().take(max).map(|event| told(event)).collect();
        Ok(Response::new(CreditHistoryResponse { events, next_page_token: next }))
    }
}

impl Credits {
    /// What is asked for, as it goes into the log. Whether it may be is decided there.
    fn read(&self, tenant: &str, request: &GrantCreditRequest, caller: &Caller) -> Result<CreditGrant, Status> {
        let invalid = |field: &str, wrong: String| refuse(Reason::Invalid, format!("{field}: {wrong}"));
        if let Some(unknown) = unknown_tenant(&*self.backplane, tenant) {
            return Err(refuse(Reason::NotFound, unknown));
        }
        let amount = Money::parse(&request.amount).map_err(|wrong| invalid("amount", wrong))?;
        if amount > MAX_BALANCE || amount < Money(-MAX_BALANCE.0) {
            return Err(invalid(
                "amount",
                format!("{amount} is more than {MAX_BALANCE}, the most that a tenant can have"),
            ));
        }
        if request.key.is_empty() {
            let wrong = "is missing: it names the grant, so that a second try gives nothing twice";
            return Err(invalid("key", wrong.into()));
        }
        let expires = match request.expires.as_str() {
            "" => Timestamp(0),
            text => self.end(tenant, text).map_err(|wrong| invalid("expires", wrong))?,
        };
        Ok(CreditGrant {
            tenant: tenant.to_owned(),
            key: request.key.clone(),
            amount: amount_bytes(amount.0),
            expires_us: expires.0,
            reason: request.reason.clone(),
            actor: caller.token.to_string(),
        })
    }

    /// A day ends when it is over for the tenant; an instant is one.
    fn end(&self, tenant: &str, text: &str) -> Result<Timestamp, String> {
        let Ok(day) =
            text.parse::<Date>().map_err(|_| ()).and_then(|day| if text.len() == 10 { Ok(day) } else { Err(()) })
        else {
            let wrong =
                |_| format!("`{text}` is no day such as 2027-01-31, and no RFC 3339 time such as 2027-01-01T00:00:00Z");
            return Timestamp::parse(text).map_err(wrong);
        };
        let zone = self.declared(tenant).map_or_else(|| "UTC".to_owned(), |tenant| tenant.time_zone.name().to_owned());
        let over = TimeZoneDatabase::bundled().get(&zone).ok().and_then(|zone| {
            let next = day.tomorrow().ok()?.to_zoned(zone).ok()?.start_of_day().ok()?;
            u64::try_from(next.timestamp().as_microsecond()).ok()
        });
        let over = over.filter(|over| *over > 0 && *over <= Timestamp::MAX.0);
        over.map(Timestamp).ok_or_else(|| format!("`{text}` is a day before 1970 or after the year 8999"))
    }

    fn declared(&self, tenant: &str) -> Option<Arc<Tenant>> {
        let catalog = Arc::clone(&self.backplane.config().borrow().catalog);
        match tollgate_model::check(&catalog.get(Kind::Tenant, tenant)?.resource) {
            Ok(Checked::Tenant(tenant)) => Some(tenant),
            _ => None,
        }
    }

    fn refuse_unknown(&self, tenant: &str) -> Result<(), Status> {
        unknown_tenant(&*self.backplane, tenant).map_or(Ok(()), |message| Err(refuse(Reason::NotFound, message)))
    }

    /// How a tenant's credit stands. What is with nodes that do not answer now nobody can have before they are back, or given up.
    async fn state(&self, tenant: &str, deadline: Instant) -> Result<Option<CreditState>, Status> {
        let own = self.backplane.node().0;
        let Some(known) = self.backplane.credit(tenant, &[]) else { return Ok(None) };
        if known.holders.iter().all(|holder| *holder == own) {
            return Ok(Some(known));
        }
        let members = self.backplane.members(deadline.min(Instant::now() + ANSWERS_WITHIN)).await?;
        let answers = |node: u64| members.iter().any(|member| member.id == node && member.state != UNREACHABLE);
        let away: Vec<u64> = known.holders.iter().copied().filter(|holder| !answers(*holder)).collect();
        if away.is_empty() { Ok(Some(known)) } else { Ok(self.backplane.credit(tenant, &away)) }
    }

    /// The same, as it is told. One that never had any has nothing; one that is gone is shown as it was.
    async fn credit(&self, tenant: &str, deadline: Instant) -> Result<Credit, Status> {
        let declared = self.declared(tenant);
        let mode = declared.as_ref().map_or("none", |tenant| mode(tenant.billing.mode)).to_owned();
        let Some(CreditState { view, held, suspense, .. }) = self.state(tenant, deadline).await? else {
            self.refuse_unknown(tenant)?;
            let currency = declared.and_then(|tenant| tenant.billing.currency);
            let zero = Money(0).to_string();
            let [granted, spent, held, balance, suspense, expired, pending, owed] =
                std::array::from_fn(|_| zero.clone());
            let currency = currency.map(|currency| currency.to_string()).unwrap_or_default();
            let tenant = tenant.to_owned();
            let grants = Vec::new();
            return Ok(Credit {
                tenant,
                currency,
                granted,
                spent,
                held,
                balance,
                suspense,
                expired,
                pending,
                owed,
                grants,
                mode,
            });
        };
        // What is owed is no credit: there is none left then.
        let balance = Money((view.granted.0 - view.spent.0 - held.0 - suspense.0).max(0));
        Ok(Credit {
            tenant: tenant.to_owned(),
            currency: view.currency.to_string(),
            granted: view.granted.to_string(),
            spent: view.spent.to_string(),
            held: held.to_string(),
            balance: balance.to_string(),
            suspense: suspense.to_string(),
            expired: view.expired.to_string(),
            pending: view.pending.to_string(),
            owed: view.owed.to_string(),
            grants: view.grants.iter().map(open).collect(),
            mode,
        })
    }
}

const fn mode(mode: BillingMode) -> &'static str {
    match mode {
        BillingMode::Prepaid => "prepaid",
        BillingMode::Postpaid => "postpaid",
        BillingMode::None => "none",
    }
}

fn open(grant: &Open) -> OpenGrant {
    OpenGrant {
        key: grant.event.key.clone(),
        amount: grant.amount.to_string(),
        rest: grant.rest.to_string(),
        expires: grant.expires.map(|at| at.to_string()).unwrap_or_default(),
        reason: grant.event.reason.clone(),
    }
}

fn told(event: &CreditEventRow) -> CreditEvent {
    let kind = match event.kind() {
        CreditEventKind::Granted | CreditEventKind::Unspecified => "granted",
        CreditEventKind::Corrected => "corrected",
        CreditEventKind::Spent => "spent",
        CreditEventKind::Expired => "expired",
        CreditEventKind::WrittenOff => "writtenOff",
    };
    let amount = (&*event.amount).try_into().map_or(Money(0), |bytes| Money(i128::from_be_bytes(bytes)));
    let expires = if event.expires_us == 0 { String::new() } else { Timestamp(event.expires_us).to_string() };
    CreditEvent {
        time: Timestamp(event.time_us).to_string(),
        kind: kind.to_owned(),
        amount: amount.to_string(),
        key: event.key.clone(),
        reason: event.reason.clone(),
        expires,
        event: event.event,
        currency: event.currency.clone(),
        actor: event.actor.clone(),
        log_index: event.log_index,
    }
}

/// Whose credit: a narrowed token sees its own tenant's, whether it names it or not.
fn tenant_of(caller: &Caller, asked: &str) -> Result<String, Status> {
    match &caller.tenant {
        Some(own) if asked.is_empty() || asked == own => Ok(own.clone()),
        Some(own) => Err(Status::permission_denied(format!("this token is narrowed to tenant {own}"))),
        None if asked.is_empty() => Err(refuse(Reason::Invalid, "tenant: is missing: whose credit is it?")),
        None => Ok(asked.to_owned()),
    }
}
