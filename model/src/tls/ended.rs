//! Certificates that are not good now.

use tollgate_proto::v1::{self, resource::Kind as Raw};

use super::Chain;
use crate::{Kind, Problem, Problems, Timestamp};

/// What is wrong with when a certificate is good. It is told and no more: a change is made as a whole, so refusing it would
/// hold up all that comes with one certificate that nobody has renewed, and what is exported would not apply again.
#[must_use]
pub fn ended(resource: &v1::Resource, now: Timestamp) -> Problems {
    let Some(Raw::Certificate(certificate)) = &resource.kind else { return Problems::default() };
    let Some(chain) = certificate.spec.as_ref().and_then(|spec| Chain::parse(&spec.certificate).ok()) else {
        return Problems::default();
    };
    let first = chain.first();
    let message = if first.ends < now {
        format!("has ended on {}: no client takes it; renew it", first.ends)
    } else if first.begins > now {
        format!("is good only from {} on: no client takes it before", first.begins)
    } else {
        return Problems::default();
    };
    let name = certificate.metadata.as_ref().map_or("", |metadata| metadata.name.as_str()).to_owned();
    Problems(vec![Problem {
        kind: Some(Kind::Certificate),
        name,
        field: "spec.certificate".to_owned(),
        message,
        at: None,
    }])
}
