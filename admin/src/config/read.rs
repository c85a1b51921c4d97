//! Reading: resources now.

use std::collections::BTreeMap;

use tollgate_model::Kind;
use tollgate_proto::admin::v1::{GetRequest, GetResponse};
use tonic::Status;

use super::{Config, apply::parse_kind};
use crate::{
    call::Call,
    details::{Reason, refuse},
};

/// Which resources.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) kind: Option<Kind>,
    pub(super) name: Option<String>,
    pub(super) selector: BTreeMap<String, String>,
}

impl Wanted {
    /// # Errors
    /// An unknown kind; a name without a kind.
    pub(super) fn parse(
        kind: &str,
        name: String,
        selector: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Status> {
        let kind = if kind.is_empty() { None } else { Some(parse_kind(kind)?) };
        if kind.is_none() && !name.is_empty() {
            return Err(refuse(Reason::Invalid, "a name needs a kind"));
        }
        let name = (!name.is_empty()).then_some(name);
        Ok(Self { kind, name, selector: selector.into_iter().collect() })
    }
}

impl Config {
    pub(super) async fn get(&self, call: &Call, request: GetRequest) -> Result<GetResponse, Status> {
        let wanted = Wanted::parse(&request.kind, request.name, request.selector)?;
        let state = if request.stale { self.here() } else { self.current(call).await? };
        let resources: Vec<_> = match (wanted.kind, &wanted.name) {
            (Some(kind), Some(name)) => {
                let stored = state.catalog.get(kind, name);
                let stored = stored
                    .ok_or_else(|| refuse(Reason::NotFound, format!("there is no {} {name}", kind.singular())))?;
                vec![stored.resource.clone()]
            }
            _ => state.catalog.list(wanted.kind, &wanted.selector).map(|stored| stored.resource.clone()).collect(),
        };
        Ok(GetResponse { resources, index: state.index.0 })
    }
}
