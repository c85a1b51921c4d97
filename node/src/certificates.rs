//! What clients over TLS are served: read from files, read again, and told of before it ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::interval;
use tokio_util::task::TaskTracker;
use tollgate_gateway::{FileCertificate, Gateway};
use tollgate_model::{Name, Timestamp};
use tracing::{error, info, warn};

use crate::{clock, config::NodeConfig};

/// So much time is left to renew what nobody renews by itself.
const ENDS_SOON: Duration = Duration::from_hours(30 * 24);
/// A certificate that came meanwhile is looked at within this.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Nobody needs to be told more often.
const TELL_EVERY: Duration = Duration::from_hours(24);

/// The certificate that the node has in files, if it has one.
pub(crate) async fn of_node(config: &NodeConfig) -> anyhow::Result<Option<Arc<FileCertificate>>> {
    let Some(files) = config.https.as_ref().and_then(|https| https.files.clone()) else { return Ok(None) };
    let loaded = tokio::task::spawn_blocking(|| FileCertificate::load(files)).await?;
    match loaded {
        Ok(certificate) => Ok(Some(Arc::new(certificate))),
        Err(error) => {
            let key = config.key_of(&error.path).unwrap_or("https.cert");
            Err(error).context(key)
        }
    }
}

/// Reads it again, beside whoever asks. What is of no use is told, and the one before stays.
pub(crate) fn reload(certificate: Arc<FileCertificate>, tasks: &TaskTracker) {
    tasks.spawn_blocking(move || match certificate.reload() {
        Ok(true) => info!(ends = %certificate.ends(), "new certificate in service, from the files of [https]"),
        Ok(false) => info!("the files of [https] have not changed"),
        Err(error) => error!(%error, "the files of [https] can't be used: the certificate before stays in service"),
    });
}

/// Tells of certificates that end soon, once a day each.
pub(crate) async fn watch(gateway: Gateway) {
    let mut told = BTreeMap::new();
    let mut turns = interval(LOOK_EVERY);
    loop {
        turns.tick().await;
        for (certificate, ends) in due(&mut told, gateway.certificates(), clock::now()) {
            let left = ends.saturating_since(clock::now());
            if left.is_zero() {
                error!(%certificate, %ends, "a certificate has ended: clients refuse it; renew it");
            } else {
                warn!(%certificate, %ends, days = left.as_secs() / 86_400, "a certificate ends soon: renew it");
            }
        }
    }
}

/// Those that are to be told of now. A renewed one ends at another time, and is another.
fn due(
    told: &mut BTreeMap<(Name, Timestamp), Timestamp>,
    all: Vec<(Name, Timestamp)>,
    now: Timestamp,
) -> Vec<(Name, Timestamp)> {
    told.retain(|known, _| all.contains(known));
    let mut due = Vec::new();
    for certificate in all {
        let last = told.get(&certificate);
        let is_due = last.is_none_or(|last| now.saturating_since(*last) >= TELL_EVERY);
        if certificate.1 < now.saturating_add(ENDS_SOON) && is_due {
            told.insert(certificate.clone(), now);
            due.push(certificate);
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_once_a_day_from_thirty_days_before_its_end() {
        let day = |n: u64| Timestamp::from_secs(n * 86_400);
        let (mut told, name) = (BTreeMap::new(), Name::new("www"));
        let mut ask = |ends, now: Timestamp| due(&mut told, vec![(name.clone(), ends)], now).len();
        assert_eq!(ask(day(100), day(69)), 0);
        assert_eq!(ask(day(100), day(71)), 1);
        assert_eq!(ask(day(100), day(71).saturating_add(LOOK_EVERY)), 0, "told already");
        assert_eq!(ask(day(100), day(72)), 1);
        assert_eq!(ask(day(101), day(72)), 1, "another one");
        assert_eq!(ask(day(200), day(72)), 0, "renewed");
        assert_eq!(ask(day(200), day(201)), 1, "ended");
    }
}
