//! How long certificates are good for, told when it is asked for.

use std::{fmt, sync::Weak};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::{clock, gateway::Shared};

const EXPIRY: &str = "tollgate_certificate_expiry_seconds";

/// Reads it of a gateway, while there is one.
pub(crate) struct Expiry(pub(crate) Weak<Shared>);

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiry").finish_non_exhaustive()
    }
}

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let all = shared.certificates();
        if all.is_empty() {
            return Ok(());
        }
        let help = "Until a certificate that clients are served ends; below zero once it has";
        let mut family = encoder.encode_descriptor(EXPIRY, help, None, MetricType::Gauge)?;
        let now = i64::try_from(clock::now_seconds()).unwrap_or(i64::MAX);
        for served in all {
            let ends = i64::try_from(served.ends.0 / 1_000_000).unwrap_or(i64::MAX);
            let labels = [("certificate", served.name.as_str())];
            ConstGauge::new(ends.saturating_sub(now)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
