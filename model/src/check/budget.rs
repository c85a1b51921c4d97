//! Budgets, and the webhooks that tell of them.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Uri, uri::Scheme};
use tollgate_proto::v1;

use super::{context::Context, text, upstream};
use crate::{BillingMode, Budget, Field, Money, Secret, Webhook};

/// Told at these when nothing else is said.
const THRESHOLDS: [u32; 3] = [50, 80, 100];
/// More are noise.
const MAX_THRESHOLDS: usize = 10;
/// Ten times the budget.
const MAX_PERCENT: u32 = 1_000;
const MAX_URL_BYTES: usize = 2_048;
/// Standard Webhooks 1.0.0: what comes before the base64 of a symmetric key, and how long that key is.
const KEY_PREFIX: &str = "whsec_";
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

pub(super) fn budget(context: &mut Context, at: &Field<'_>, given: &v1::Budget, mode: BillingMode) -> Option<Budget> {
    if mode == BillingMode::None {
        context.add(at, "is of a tenant that is not billed: set `spec.billing.mode`");
    }
    if given.monthly.is_empty() {
        context.add(&at.field("monthly"), "is missing");
    }
    let monthly = context.money(&at.field("monthly"), &given.monthly);
    if monthly == Some(Money(0)) {
        context.add(&at.field("monthly"), "is 0, which every bill is above: leave the budget out");
    }
    let thresholds = thresholds(context, &at.field("thresholds"), &given.thresholds);
    let webhook = given.webhook.as_ref().and_then(|given| webhook(context, &at.field("webhook"), given));
    Some(Budget { monthly: monthly?, thresholds, webhook })
}

fn thresholds(context: &mut Context, at: &Field<'_>, given: &[u32]) -> Vec<u32> {
    if given.is_empty() {
        return THRESHOLDS.to_vec();
    }
    if given.len() > MAX_THRESHOLDS {
        context.add(at, format!("has more than {MAX_THRESHOLDS} entries"));
    }
    for (n, percent) in given.iter().enumerate() {
        if !(1..=MAX_PERCENT).contains(percent) {
            context.add(&at.index(n), format!("`{percent}` is no percentage of a budget: 1 to {MAX_PERCENT}"));
        }
    }
    context.once(at, given);
    let mut thresholds = given.to_vec();
    thresholds.sort_unstable();
    thresholds
}

fn webhook(context: &mut Context, at: &Field<'_>, given: &v1::Webhook) -> Option<Webhook> {
    let url = match given.url.as_str() {
        "" => {
            context.add(&at.field("url"), "is missing");
            None
        }
        url => context.keep(&at.field("url"), self::url(url)),
    };
    let field = at.field("secret");
    let Some(secret) = &given.secret else {
        context.add(&field, "is missing: calls are signed with it");
        return None;
    };
    if secret.weight.is_some() {
        context.add(&field.field("weight"), "is only for the keys of a provider: there is one secret");
    }
    let kept = upstream::provider_key(context, &field, secret);
    if !secret.value.is_empty() {
        context.keep(&field.field("value"), signing_key(&secret.value));
    }
    Some(Webhook { url: url?, secret: kept })
}

/// Not shown where it is wrong: who receives alerts may put a token into it.
fn url(given: &str) -> Result<Uri, String> {
    text::visible(given, MAX_URL_BYTES)?;
    let wrong = "is no URL such as https://example.com/hooks/tollgate";
    if given.contains('#') {
        return Err("has a fragment, which is never sent".to_owned());
    }
    let uri: Uri = given.parse().map_err(|_| wrong)?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(wrong.to_owned()) };
    if ![&Scheme::HTTP, &Scheme::HTTPS].contains(&scheme) {
        return Err("has a scheme other than http and https".to_owned());
    }
    if authority.as_str().contains('@') {
        return Err("has a user name or a password: calls are signed with `secret` instead".to_owned());
    }
    text::host(authority.host()).map_err(|_| wrong)?;
    Ok(uri)
}

/// The key that a webhook's secret is the text of.
///
/// # Errors
/// A sentence without the secret.
pub fn signing_key(secret: &str) -> Result<Secret<Vec<u8>>, &'static str> {
    const WRONG: &str = "is no secret for a webhook: `whsec_`, then 24 to 64 bytes as base64";
    let key =
        secret.strip_prefix(KEY_PREFIX).and_then(|key| STANDARD.decode(key).ok()).map(Secret::new).ok_or(WRONG)?;
    if KEY_BYTES.contains(&key.expose().len()) { Ok(key) } else { Err(WRONG) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checked, check, check::tests::resource};

    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

    fn checked(budget: &str) -> Result<Option<Budget>, String> {
        let spec = format!("{{billing: {{mode: postpaid, currency: EUR}}, budget: {budget}}}");
        match check(&resource(&format!("kind: Tenant\nmetadata: {{name: x}}\nspec: {spec}"))) {
            Ok(Checked::Tenant(tenant)) => Ok(tenant.budget.clone()),
            Ok(other) => panic!("{other:?}"),
            Err(problems) => Err(problems.iter().map(|it| format!("{}: {}\n", it.field, it.message)).collect()),
        }
    }

    #[test]
    fn a_budget_has_the_usual_thresholds_unless_it_says_otherwise() {
        let budget = checked("{monthly: '12.50'}").unwrap().unwrap();
        assert_eq!((budget.monthly, budget.thresholds), (Money(12_500_000_000_000), vec![50, 80, 100]));
        assert!(budget.webhook.is_none() && checked("{}").is_err());
        assert_eq!(checked("{monthly: '1', thresholds: [120, 1]}").unwrap().unwrap().thresholds, [1, 120]);
    }

    #[test]
    fn what_can_be_no_budget_is_named() {
        for (budget, said) in [
            ("{monthly: '0'}", "spec.budget.monthly: is 0"),
            ("{monthly: '-1'}", "spec.budget.monthly: must not be negative"),
            ("{monthly: much}", "spec.budget.monthly: `much` is not a decimal"),
            ("{monthly: '1', thresholds: [0]}", "spec.budget.thresholds[0]: `0` is no percentage"),
            ("{monthly: '1', thresholds: [50, 1001]}", "spec.budget.thresholds[1]: `1001`"),
            ("{monthly: '1', thresholds: [5, 5]}", "spec.budget.thresholds"),
            ("{monthly: '1', thresholds: [1,2,3,4,5,6,7,8,9,10,11]}", "more than 10"),
        ] {
            let found = checked(budget).unwrap_err();
            assert!(found.lines().count() == 1 && found.contains(said), "{budget}: {found}");
        }
        let unbilled = "kind: Tenant\nmetadata: {name: x}\nspec: {budget: {monthly: '1'}}";
        assert!(check(&resource(unbilled)).unwrap_err().to_string().contains("spec.budget: is of a tenant"));
    }

    #[test]
    fn a_webhook_has_a_plain_url_and_a_secret_that_is_never_shown() {
        let hook = |url: &str, secret: &str| {
            checked(&format!("{{monthly: '1', webhook: {{url: '{url}', secret: {secret}}}}}"))
        };
        let url = "https://example.com:8443/hooks?for=tollgate";
        let budget = hook(url, "{env: HOOK_SECRET}").unwrap().unwrap();
        assert_eq!(budget.webhook.unwrap().url.to_string(), url);
        assert!(hook("http://127.0.0.1:9", &format!("{{value: {SECRET}}}")).is_ok());
        for (url, secret, said) in [
            ("", "{env: A}", "url: is missing"),
            ("example.com/hooks", "{env: A}", "url: is no URL"),
            ("ftp://example.com/", "{env: A}", "url: has a scheme"),
            ("https://me:pw@example.com/", "{env: A}", "url: has a user name"),
            ("https://example.com/#x", "{env: A}", "url: has a fragment"),
            (url, "{}", "secret: must have exactly one"),
            (url, "{env: A, weight: 2}", "secret.weight: is only for the keys of a provider"),
            (url, "{value: whsec_c2hvcnQ=}", "secret.value: is no secret for a webhook"),
            (url, "{value: hunter2hunter2}", "secret.value: is no secret for a webhook"),
        ] {
            let found = hook(url, secret).unwrap_err();
            assert!(found.lines().count() == 1 && found.contains(said), "{url} {secret}: {found}");
            assert!(!found.contains("hunter2") && !found.contains("pw@"), "{found}");
        }
        assert!(
            checked("{monthly: '1', webhook: {url: 'https://example.com'}}")
                .unwrap_err()
                .contains("secret: is missing")
        );
    }

    #[test]
    fn the_key_is_what_the_secret_says_in_base64() {
        assert_eq!(signing_key(SECRET).unwrap().expose(), &(0..24).collect::<Vec<u8>>());
        assert!(signing_key(&SECRET[6..]).is_err());
    }
}
