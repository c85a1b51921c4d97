//! Tenants and consumers.

use std::{sync::Arc, time::Duration};

use tollgate_proto::v1;

use super::{
    budget,
    context::{Context, Value::Is},
    route::PRIORITIES,
    text,
};
use crate::{
    Billing, BillingMode, Checked, Consumer, Credential, Currency, Durability, Field, Kind, Name, Problems, Tenant,
    TimeZone, Timestamp, parse_duration, secret,
};

/// A month's bill is closed well before the next month ends.
const MAX_GRACE: Duration = Duration::from_hours(14 * 24);

/// Longer than any issuer's tokens.
const MAX_API_KEY_BYTES: usize = 4096;

/// A shorter one is found by trying.
const MIN_API_KEY_BYTES: usize = 8;

pub(super) fn tenant(raw: &v1::Tenant) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Tenant, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::TenantSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let billing = billing(&mut context, &spec.field("billing"), given.billing.as_ref());
    let zone = match given.time_zone.as_str() {
        "" => Some(TimeZone::UTC),
        name => context.keep(&spec.field("timeZone"), TimeZone::parse(name)),
    };
    let at = spec.field("budget");
    let budget = given.budget.as_ref().and_then(|given| budget::budget(&mut context, &at, given, billing.mode));
    let (name, version) = (context.name.clone(), context.version);
    let tenant = Tenant { name, version, billing, time_zone: zone.unwrap_or_default(), budget };
    context.finish(Checked::Tenant(Arc::new(tenant)))
}

fn billing(context: &mut Context, at: &Field<'_>, given: Option<&v1::Billing>) -> Billing {
    let none = v1::Billing::default();
    let given = given.unwrap_or(&none);
    let modes = [
        ("prepaid", Is(BillingMode::Prepaid)),
        ("postpaid", Is(BillingMode::Postpaid)),
        ("none", Is(BillingMode::None)),
    ];
    let mode = context.word(&at.field("mode"), &given.mode, &modes).unwrap_or(BillingMode::None);
    let durabilities = [("journal", Is(Durability::Journal)), ("quorum", Is(Durability::Quorum))];
    let durability = context.word(&at.field("durability"), &given.durability, &durabilities);
    let currency = match given.currency.as_str() {
        "" => None,
        code => context.keep(&at.field("currency"), Currency::parse(code)),
    };
    if mode != BillingMode::None && given.currency.is_empty() {
        context.add(&at.field("currency"), "is missing: a tenant that pays has a currency");
    }
    let grace = match given.grace.as_str() {
        "" => None,
        text => context.keep(&at.field("grace"), self::grace(text)),
    };
    let durability = durability.unwrap_or(Durability::Journal);
    Billing { mode, currency, durability, grace: grace.unwrap_or(Billing::GRACE) }
}

fn grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace > MAX_GRACE { Err(format!("`{text}` is more than 14d")) } else { Ok(grace) }
}

pub(super) fn consumer(raw: &v1::Consumer) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Consumer, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::ConsumerSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let tenant = match given.tenant.as_str() {
        "" => {
            context.add(&spec.field("tenant"), "is missing");
            None
        }
        name => context.name(&spec.field("tenant"), name),
    };
    let list = spec.field("credentials");
    let mut credentials: Vec<Credential> = Vec::new();
    for (n, raw) in given.credentials.iter().enumerate() {
        let at = list.index(n);
        let same = |other: &v1::Credential| {
            !raw.api_key.is_empty() && other.api_key == raw.api_key || !raw.hash.is_empty() && other.hash == raw.hash
        };
        if given.credentials[..n].iter().any(same) {
            context.add(&at, "is there twice");
        }
        credentials.extend(credential(&mut context, &at, raw));
    }
    let priority = context.word(&spec.field("priority"), &given.priority, &PRIORITIES);
    let (name, version) = (context.name.clone(), context.version);
    let tenant = tenant.unwrap_or_else(|| Name::new(""));
    context.finish(Checked::Consumer(Arc::new(Consumer { name, version, tenant, credentials, priority })))
}

/// What is wrong is not shown: a key is easily written in the wrong field.
fn expiry(context: &mut Context, at: &Field<'_>, text: &str) -> Option<Timestamp> {
    if text.is_empty() {
        return None;
    }
    let wrong = |_| "is not an RFC 3339 time from 1970 on, such as 2027-01-01T00:00:00Z";
    context.keep(at, Timestamp::parse(text).map_err(wrong))
}

fn credential(context: &mut Context, at: &Field<'_>, raw: &v1::Credential) -> Option<Credential> {
    let expires_at = expiry(context, &at.field("expiresAt"), &raw.expires_at);
    match (raw.api_key.as_str(), raw.hash.as_str()) {
        ("", "") => context.add(at, "must have `apiKey`"),
        (api_key, "") => {
            context.keep(&at.field("apiKey"), self::api_key(api_key));
        }
        ("", hash) => {
            let (key_id, hash) = context.keep(&at.field("hash"), secret::parse_hash(hash))?;
            return Some(Credential { hash, key_id: key_id.to_owned(), expires_at });
        }
        _ => context.add(at, "must have only one of `apiKey` and `hash`"),
    }
    None
}

fn api_key(text: &str) -> Result<(), String> {
    text::visible(text, MAX_API_KEY_BYTES)?;
    if text.len() < MIN_API_KEY_BYTES {
        return Err(format!("is shorter than {MIN_API_KEY_BYTES} characters: whoever tries would find it"));
    }
    Ok(())
}
