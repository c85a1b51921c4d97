//! The columns of FOCUS, and what of them a charge fills.

use tollgate_model::Money;

use super::{Key, Metered, Part, Sum, payer::Bill};
use crate::{
    export::{
        cell::{Cell, Column},
        query::FocusVersion,
    },
    price::Meter,
};

/// Tokens that unit prices are for.
const PRICED_TOKENS: i128 = 1_000_000;
const REQUESTS: &str = "Requests";

pub(super) const COLUMNS: usize = 55;

/// FOCUS 1.2: its columns in the order of their names, then ours.
const V1_2: [Column; COLUMNS] = columns_of(["ProviderName", "PublisherName"]);
/// FOCUS 1.3 calls who sells the service and who runs the model otherwise.
const V1_3: [Column; COLUMNS] = columns_of(["ServiceProviderName", "HostProviderName"]);

const fn columns_of([seller, host]: [&'static str; 2]) -> [Column; COLUMNS] {
    [
        Column::decimal("BilledCost"),
        Column::text("BillingAccountId"),
        Column::text("BillingAccountName"),
        Column::text("BillingAccountType"),
        Column::text("BillingCurrency"),
        Column::time("BillingPeriodEnd"),
        Column::time("BillingPeriodStart"),
        Column::text("ChargeCategory"),
        Column::text("ChargeClass"),
        Column::text("ChargeDescription"),
        Column::text("ChargeFrequency"),
        Column::time("ChargePeriodEnd"),
        Column::time("ChargePeriodStart"),
        Column::decimal("ConsumedQuantity"),
        Column::text("ConsumedUnit"),
        Column::decimal("ContractedCost"),
        Column::decimal("ContractedUnitPrice"),
        Column::decimal("EffectiveCost"),
        Column::text("InvoiceId"),
        Column::text("InvoiceIssuerName"),
        Column::decimal("ListCost"),
        Column::decimal("ListUnitPrice"),
        Column::text("PricingCategory"),
        Column::text("PricingCurrency"),
        Column::decimal("PricingCurrencyContractedUnitPrice"),
        Column::decimal("PricingCurrencyEffectiveCost"),
        Column::decimal("PricingCurrencyListUnitPrice"),
        Column::decimal("PricingQuantity"),
        Column::text("PricingUnit"),
        Column::text(seller),
        Column::text(host),
        Column::text("RegionId"),
        Column::text("RegionName"),
        Column::text("ResourceId"),
        Column::text("ResourceName"),
        Column::text("ResourceType"),
        Column::text("ServiceCategory"),
        Column::text("ServiceName"),
        Column::text("ServiceSubcategory"),
        Column::text("SkuId"),
        Column::text("SkuMeter"),
        Column::text("SkuPriceDetails"),
        Column::text("SkuPriceId"),
        Column::text("SubAccountId"),
        Column::text("SubAccountName"),
        Column::text("SubAccountType"),
        Column::text("Tags"),
        Column::number("x_EstimatedRows"),
        Column::text("x_LedgerSeqFrom"),
        Column::text("x_LedgerSeqTo"),
        Column::text("x_Model"),
        Column::text("x_PriceVersion"),
        Column::decimal("x_ProviderCost"),
        Column::text("x_ProviderCurrency"),
        Column::number("x_Requests"),
    ]
}

/// The columns of an edition.
pub(in crate::export) fn columns(version: FocusVersion) -> &'static [Column] {
    match version {
        FocusVersion::V1_2 => &V1_2,
        FocusVersion::V1_3 => &V1_3,
    }
}

/// What was counted, in which unit, and what one of it costs.
struct Measure {
    consumed: Option<(Money, &'static str)>,
    priced: Option<(Money, String)>,
    unit_price: Option<Money>,
    list_unit_price: Option<Money>,
}

fn measure(part: Part, sum: &Sum, key: &Key) -> Measure {
    let (currency, has_price) = (&key.currency, !key.price.0.is_empty());
    let whole = |count: u64, per: i128| Money(i128::from(count) * (Money::ONE.0 / per));
    let (consumed, priced, per) = match part {
        None if key.is_correction => (None, None, None),
        None => (Some((whole(sum.requests, 1), REQUESTS)), None, None),
        // Told in the currency: by the list where the price that counts has no such line.
        Some(Metered { meter: Meter::Minimum, rate, .. }) => {
            let amount = Money(if rate == 0 { sum.list_cost } else { sum.cost });
            (Some((whole(sum.requests, 1), REQUESTS)), Some((amount, currency.clone())), Some(1))
        }
        Some(Metered { meter: Meter::Request, .. }) => {
            let count = whole(sum.quantity, 1);
            (Some((count, REQUESTS)), Some((count, REQUESTS.to_owned())), Some(1))
        }
        Some(_) => {
            let priced = (whole(sum.quantity, PRICED_TOKENS), format!("{PRICED_TOKENS} Tokens"));
            (Some((whole(sum.quantity, 1), "Tokens")), Some(priced), Some(PRICED_TOKENS))
        }
    };
    let unit_price = |of: fn(Metered) -> i128| Some(Money(of(part?).saturating_mul(per?))).filter(|_| has_price);
    Measure {
        consumed,
        priced: priced.filter(|_| has_price),
        unit_price: unit_price(|it| it.rate),
        list_unit_price: unit_price(|it| it.list_rate),
    }
}

/// A charge, in the order of [`columns`].
pub(super) fn cells<'a>(issuer: &'a str, bill: &Bill, key: &'a Key, part: Part, sum: &Sum) -> [Cell<'a>; COLUMNS] {
    let has_price = !key.price.0.is_empty();
    let measure = measure(part, sum, key);
    let decimal = |value: Option<Money>| value.map_or(Cell::Absent, Cell::Decimal);
    let unit_price = || decimal(measure.unit_price);
    let list_unit_price = || decimal(measure.list_unit_price);
    let cost = || Cell::Decimal(Money(sum.cost));
    let price = has_price.then(|| format!("{}@{}", key.price.0, key.price.1));
    let price_id = price.clone().filter(|_| part.is_some()); // it would promise a unit price
    let meter = part.map(|it| it.meter.as_str());
    // A charge that is of no line of a price is of whole requests, or of what was wrong with some.
    let sku_meter = meter.unwrap_or(if key.is_correction { "correction" } else { Meter::Request.as_str() });
    let details = price_id.as_ref().and(meter).map(|meter| serde_json::json!({"x_TokenType": meter}).to_string());
    let served = if key.provider_model.is_empty() { &key.model } else { &key.provider_model };
    let (from, to) = sum.seqs.unwrap_or_default();
    [
        Cell::Decimal(if key.is_prepaid { Money(0) } else { Money(sum.cost) }),
        Cell::text(&key.tenant),
        Cell::text(&key.tenant),
        Cell::text("Tenant"),
        Cell::text(&key.currency),
        Cell::Time(key.bill.end),
        Cell::Time(key.bill.start),
        Cell::text("Usage"),
        if key.is_correction { Cell::text("Correction") } else { Cell::Absent },
        Cell::owned(description(served, key.is_correction, meter)),
        Cell::text("Usage-Based"),
        Cell::Time(key.end),
        Cell::Time(key.start),
        decimal(measure.consumed.map(|(quantity, _)| quantity)),
        measure.consumed.map_or(Cell::Absent, |(_, unit)| Cell::text(unit)),
        cost(),
        unit_price(),
        cost(),
        bill.invoice.clone().map_or(Cell::Absent, Cell::owned),
        Cell::text(issuer),
        Cell::Decimal(Money(sum.list_cost)),
        list_unit_price(),
        if has_price && part.is_some() { Cell::text("Standard") } else { Cell::text("Other") },
        Cell::text(&key.currency),
        unit_price(),
        cost(),
        list_unit_price(),
        decimal(measure.priced.as_ref().map(|(quantity, _)| *quantity)),
        measure.priced.map_or(Cell::Absent, |(_, unit)| Cell::owned(unit)),
        Cell::text(issuer),
        Cell::text(&key.provider),
        Cell::Absent,
        Cell::Absent,
        Cell::text(&key.route),
        Cell::text(&key.route),
        if key.route.is_empty() { Cell::Absent } else { Cell::text("AI Route") },
        Cell::text("AI and Machine Learning"),
        Cell::text(served),
        Cell::text("Generative AI"),
        Cell::text(served),
        Cell::text(sku_meter),
        details.map_or(Cell::Absent, Cell::owned),
        price_id.map_or(Cell::Absent, Cell::owned),
        Cell::text(&key.consumer),
        Cell::text(&key.consumer),
        if key.consumer.is_empty() { Cell::Absent } else { Cell::text("Consumer") },
        Cell::owned(bill.tags()),
        Cell::Number(sum.estimated),
        Cell::owned(from.to_string()),
        Cell::owned(to.to_string()),
        Cell::text(&key.model),
        price.map_or(Cell::Absent, Cell::owned),
        if key.bills_in.is_empty() { Cell::Absent } else { Cell::Decimal(Money(sum.provider_cost)) },
        Cell::text(&key.bills_in),
        Cell::Number(sum.requests),
    ]
}

fn description(model: &str, is_correction: bool, meter: Option<&str>) -> String {
    match (is_correction, meter) {
        (true, _) => format!("{model}, correction"),
        (false, Some(meter)) => format!("{model}, {meter}"),
        (false, None) => model.to_owned(),
    }
}
