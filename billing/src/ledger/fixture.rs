//! What tests of the ledger have in common.

use tollgate_proto::{state::v1::PriceVersionRow, v1};

/// Version 3 of the price `a`: so much in USD for each token of input.
pub(crate) fn price(input: &str) -> PriceVersionRow {
    let price = v1::Price {
        api_version: "tollgate/v1".into(),
        kind: "Price".into(),
        metadata: Some(v1::Metadata { name: "a".into(), resource_version: Some(3), ..v1::Metadata::default() }),
        spec: Some(v1::PriceSpec {
            currency: "USD".into(),
            per: Some(1),
            input: input.into(),
            ..v1::PriceSpec::default()
        }),
    };
    PriceVersionRow { price: Some(price), since_us: 7, ..PriceVersionRow::default() }
}
