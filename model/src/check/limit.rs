//! Limits.

use std::sync::Arc;

use tollgate_proto::v1;

use super::{
    context::{
        Context,
        Value::{Is, NotYet},
    },
    upstream::globs,
};
use crate::{Checked, Durability, Field, KeyPart, Kind, Limit, Problems, Unit, Window, nearest::hint};

/// Half of what 64 bits hold, so that no sum of two amounts overflows.
const MAX_LIMIT: u64 = u64::MAX / 2;

pub(super) fn limit(raw: &v1::Limit) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Limit, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::LimitSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let units = [
        ("tokens", Is(Unit::Tokens)),
        ("inputTokens", Is(Unit::InputTokens)),
        ("outputTokens", Is(Unit::OutputTokens)),
        ("requests", Is(Unit::Requests)),
        ("cost", NotYet),
        ("concurrency", NotYet),
    ];
    let unit = context.required_word(&spec.field("unit"), &given.unit, &units).unwrap_or(Unit::Tokens);
    let amount = amount(&mut context, &spec.field("limit"), given.limit);
    let window = window(&mut context, &spec.field("window"), given);
    let per = per(&mut context, &spec.field("per"), &given.per);
    modes(&mut context, &spec, given);
    let durability = durability(&mut context, &spec.field("durability"), given, unit);
    let (at, none) = (spec.field("match"), v1::LimitMatch::default());
    let matched = given.r#match.as_ref().unwrap_or(&none);
    context.not_yet(&at.field("cidrs"), !matched.cidrs.is_empty());
    let limit = Limit {
        name: context.name.clone(),
        version: context.version,
        tenants: context.names(&at.field("tenants"), &matched.tenants),
        consumers: context.names(&at.field("consumers"), &matched.consumers),
        routes: context.names(&at.field("routes"), &matched.routes),
        models: globs(&mut context, &at.field("models"), &matched.models),
        per,
        unit,
        limit: amount,
        window,
        durability,
    };
    context.finish(Checked::Limit(Arc::new(limit)))
}

fn amount(context: &mut Context, at: &Field<'_>, given: Option<u64>) -> u64 {
    match given {
        None => context.add(at, "is missing"),
        Some(0) => context.add(at, "must be greater than 0"),
        Some(amount) if amount > MAX_LIMIT => context.add(at, format!("must be at most {MAX_LIMIT}")),
        Some(amount) => return amount,
    }
    1
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

fn per(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<KeyPart> {
    const ALL: [&str; 9] =
        ["tenant", "consumer", "route", "model", "provider", "ip", "header:NAME", "cookie:NAME", "query:NAME"];
    context.once(at, given);
    let mut parts = Vec::new();
    for (n, text) in given.iter().enumerate() {
        if let Some(part) = KeyPart::ALL.into_iter().find(|part| part.as_str() == text) {
            parts.push(part);
            continue;
        }
        let later = matches!(text.as_str(), "provider" | "ip")
            || ["header:", "cookie:", "query:"].iter().any(|prefix| text.starts_with(prefix));
        if later {
            context.add(&at.index(n), format!("`{text}` is not supported yet"));
        } else {
            context.add(&at.index(n), format!("`{text}` is unknown{}: {}", hint(text, ALL), ALL.join(" | ")));
        }
    }
    parts
}

fn durability(context: &mut Context, at: &Field<'_>, given: &v1::LimitSpec, unit: Unit) -> Durability {
    let words =
        [("memory", Is(Durability::Memory)), ("journal", Is(Durability::Journal)), ("quorum", Is(Durability::Quorum))];
    context.word(at, &given.durability, &words).unwrap_or(Durability::default_of(unit))
}

/// What is accepted only where it says what is done now.
fn modes(context: &mut Context, spec: &Field<'_>, given: &v1::LimitSpec) {
    context.word(&spec.field("mode"), &given.mode, &[("enforce", Is(())), ("shadow", NotYet)]);
    context.word(&spec.field("algorithm"), &given.algorithm, &[("fixed", Is(())), ("sliding", NotYet)]);
    context.word(&spec.field("reserve"), &given.reserve, &[("full", Is(())), ("prompt", NotYet)]);
    context.word(&spec.field("whenUnavailable"), &given.when_unavailable, &[("deny", Is(())), ("allow", NotYet)]);
}
