//! Limits.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tollgate_proto::v1;

use super::{
    context::{Context, Value::Is},
    upstream::globs,
};
use crate::{
    Algorithm, Checked, Currency, Durability, Field, KeyPart, Kind, Limit, MAX_KEY_PARTS, Mode, Money, Problems,
    Reserve, Unit, WhenUnavailable, Window, parse_network, resource::MAX_LIMIT,
};

/// ISO 4217's code for no currency.
const NO_CURRENCY: &str = "XXX";

pub(super) fn limit(raw: &v1::Limit) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Limit, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::LimitSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let currency = currency(&mut context, &spec.field("currency"), given);
    let units = [
        ("tokens", Is(Unit::Tokens)),
        ("inputTokens", Is(Unit::InputTokens)),
        ("outputTokens", Is(Unit::OutputTokens)),
        ("requests", Is(Unit::Requests)),
        ("cost", Is(Unit::Cost(currency))),
        ("concurrency", Is(Unit::Concurrency)),
    ];
    let unit = context.required_word(&spec.field("unit"), &given.unit, &units).unwrap_or(Unit::Tokens);
    let amount = amount(&mut context, &spec.field("limit"), given);
    let window = window(&mut context, &spec.field("window"), given);
    let algorithm = algorithm(&mut context, &spec.field("algorithm"), given, window);
    let per = per(&mut context, &spec.field("per"), &given.per);
    let mode = modes(&mut context, &spec, given);
    let reserve = reserve(&mut context, &spec.field("reserve"), given, unit);
    let words = [("deny", Is(WhenUnavailable::Deny)), ("allow", Is(WhenUnavailable::Allow))];
    let when_unavailable = context.word(&spec.field("whenUnavailable"), &given.when_unavailable, &words);
    let durability = durability(&mut context, &spec.field("durability"), given, unit);
    let (at, none) = (spec.field("match"), v1::LimitMatch::default());
    let matched = given.r#match.as_ref().unwrap_or(&none);
    let limit = Limit {
        name: context.name.clone(),
        version: context.version,
        tenants: context.names(&at.field("tenants"), &matched.tenants),
        consumers: context.names(&at.field("consumers"), &matched.consumers),
        routes: context.names(&at.field("routes"), &matched.routes),
        models: globs(&mut context, &at.field("models"), &matched.models),
        cidrs: cidrs(&mut context, &at.field("cidrs"), &matched.cidrs),
        per,
        unit,
        limit: amount,
        window,
        algorithm,
        durability,
        mode,
        reserve,
        when_unavailable: when_unavailable.unwrap_or_default(),
    };
    context.finish(Checked::Limit(Arc::new(limit)))
}

/// That of a limit on cost. Where it says none the catalog fills in its tenants' one (`catalog/currencies.rs`), so no limit
/// that is in force counts in none.
fn currency(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec) -> Currency {
    let none = Currency::parse(NO_CURRENCY).expect("it has three capital letters");
    if given.currency.is_empty() {
        return none;
    }
    if given.unit != "cost" {
        context.add(at, "is only for `unit: cost`");
    }
    context.keep(at, Currency::parse(&given.currency)).unwrap_or(none)
}

fn amount(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec) -> u64 {
    if given.unit == "cost" {
        return money(context, at, given);
    }
    if !given.limit_decimal.is_empty() {
        let text = given.limit_decimal.escape_debug();
        context.add(at, format!("must be a whole number, not `{text}`: only `unit: cost` is an amount of money"));
        return 1;
    }
    match given.limit {
        None => context.add(at, "is missing"),
        Some(amount) if amount > MAX_LIMIT => context.add(at, format!("must be at most {MAX_LIMIT}")),
        Some(amount) => return amount,
    }
    1
}

/// In pico-units: 64 bits of them have to do, as for any other unit.
fn money(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec) -> u64 {
    let amount = match (given.limit, given.limit_decimal.as_str()) {
        (Some(_), text) if !text.is_empty() => {
            context.add(at, "is there twice: as `limit` and as `limit_decimal`");
            return 1;
        }
        (Some(whole), _) => Money(i128::from(whole) * Money::ONE.0),
        (None, "") => {
            context.add(at, "is missing");
            return 1;
        }
        (None, text) => context.money(at, text).unwrap_or(Money(1)),
    };
    let most = Money(MAX_LIMIT.into());
    if amount > most {
        context.add(at, format!("must be at most {most}"));
    }
    u64::try_from(amount.0).unwrap_or(1)
}

fn window(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec) -> Window {
    if given.unit == "concurrency" {
        if !given.window.is_empty() {
            context.add(at, "means nothing for concurrency, which is what is in flight at a moment");
        }
        return Window::Minute;
    }
    if given.window.is_empty() {
        context.add(at, "is missing: 1s | 1m | 1h | 1d | month");
        return Window::Minute;
    }
    context.keep(at, Window::parse(&given.window)).unwrap_or(Window::Minute)
}

fn algorithm(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec, window: Window) -> Algorithm {
    let words = [("fixed", Is(Algorithm::Fixed)), ("sliding", Is(Algorithm::Sliding))];
    let chosen = context.word(at, &given.algorithm, &words);
    if given.unit == "concurrency" && !given.algorithm.is_empty() {
        context.add(at, "means nothing for concurrency, which is what is in flight at a moment");
    }
    if chosen == Some(Algorithm::Sliding) && matches!(window, Window::Day | Window::Month) {
        context.add(at, format!("`sliding` is for windows up to 1h; write `fixed` for {window}"));
    }
    chosen.unwrap_or(Algorithm::default_for(window))
}

fn per(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<KeyPart> {
    let read = given.iter().enumerate().map(|(n, text)| context.keep(&at.index(n), KeyPart::parse(text)));
    let parts: Vec<Option<KeyPart>> = read.collect();
    // By what they mean: names of headers are the same in any case.
    for (n, part) in parts.iter().enumerate() {
        if let Some(part) = part.as_ref().filter(|_| parts[..n].contains(part)) {
            context.add(&at.index(n), format!("`{part}` is there twice"));
        }
    }
    if given.len() > MAX_KEY_PARTS {
        context.add(at, format!("must have at most {MAX_KEY_PARTS}"));
    }
    parts.into_iter().flatten().collect()
}

/// Networks or single addresses. An IPv4 network in its IPv6 form is the IPv4 network, as callers' addresses are.
pub(super) fn cidrs(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (n, text) in given.iter().enumerate() {
        let network = match parse_network(text) {
            Ok(network) => canonical(network),
            Err(error) => {
                context.add(&at.index(n), format!("`{}` {error}", text.escape_debug()));
                continue;
            }
        };
        if networks.contains(&network) {
            context.add(&at.index(n), format!("`{network}` is there twice"));
        }
        networks.push(network);
    }
    networks
}

fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let mapped = match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (address @ IpAddr::V4(_), Some(bits)) if network.addr().is_ipv6() => IpNet::new(address, bits).ok(),
        _ => None,
    };
    mapped.unwrap_or(network).trunc()
}

fn durability(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec, unit: Unit) -> Durability {
    let words =
        [("memory", Is(Durability::Memory)), ("journal", Is(Durability::Journal)), ("quorum", Is(Durability::Quorum))];
    context.word(at, &given.durability, &words).unwrap_or(Durability::default_of(unit))
}

fn modes(context: &mut Context, spec: &Field<'_>, given: &v1::LimitSpec) -> Mode {
    let modes = [("enforce", Is(Mode::Enforce)), ("shadow", Is(Mode::Shadow))];
    context.word(&spec.field("mode"), &given.mode, &modes).unwrap_or_default()
}

fn reserve(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec, unit: Unit) -> Reserve {
    let words = [("full", Is(Reserve::Full)), ("prompt", Is(Reserve::Prompt))];
    let reserve = context.word(at, &given.reserve, &words).unwrap_or_default();
    if reserve == Reserve::Prompt && matches!(unit, Unit::Requests | Unit::Concurrency) {
        context.add(at, "`prompt` is for units that tokens are counted in: leave it out");
    }
    reserve
}
