//! Zones: drained, taken back, listed.
//!
//! A zone is known by the nodes and the endpoints that are in it, or as it is drained.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use prost::Message;
use tokio::time::sleep;
use tollgate_model::{Catalog, Kind, NodeId, Timestamp};
use tollgate_proto::{
    admin::v1::{NodeStatus, StatusZonesResponse, ZoneRequest, ZoneResponse, ZoneStatus},
    state::v1::{Command, ZoneChange, ZoneOutcome, command},
    v1::{Resource, resource},
};
use tonic::Status;
use tracing::info;

use super::{Cluster, DRAINING, UNREACHABLE};
use crate::{
    call::{Call, asked, request_id_or_new, used_before},
    details::{Reason, refuse},
};

/// Names that a refusal tells.
const TOLD: usize = 20;
/// For the members to say that they are there: who has not by then gets no requests either.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A member whose zone was taken back says within this that it is ready.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(50);

impl Cluster {
    pub(super) async fn change_zone(
        &self,
        call: &Call,
        request: ZoneRequest,
        drained: bool,
    ) -> Result<ZoneResponse, Status> {
        let id = request_id_or_new(&request.request_id)?;
        self.backplane.read_barrier(call.deadline).await?;
        let zones = self.zones();
        if !zones.iter().any(|zone| zone.zone == request.zone) {
            return Err(refuse(Reason::NotFound, unknown(&request.zone, &zones)));
        }
        let method = if drained { "drain zone" } else { "undrain zone" };
        let said = ZoneRequest { request_id: Vec::new(), ..request.clone() };
        let asked = asked(self.key.as_deref(), method, &said);
        // To take a zone back leaves nobody without nodes.
        let stay = if drained { self.staying(call).await? } else { BTreeSet::new() };
        let has_nodes = |zone: &&ZoneStatus| zone.nodes.iter().any(|node| stay.contains(node));
        let of_nodes = zones.iter().filter(has_nodes).map(|zone| zone.zone.clone()).collect();
        let actor = call.caller.token.to_string();
        let change = ZoneChange { zone: request.zone.clone(), drained, actor, of_nodes };
        let command = Command { kind: Some(command::Kind::Zone(change)), asked };
        let committed = self.backplane.propose(id, command, call.deadline).await?;
        let outcome = ZoneOutcome::decode(committed.outcome).map_err(|_| used_before())?;
        if !outcome.problem.is_empty() {
            return Err(refuse(Reason::Refused, outcome.problem));
        }
        let (index, changed) = (committed.index.0, outcome.changed);
        info!(index, token = %call.caller.token, zone = request.zone, drained, changed, "zone changed");
        // It is done: what follows is only told, and only where this node has applied it by then.
        let told = drained && self.backplane.read_barrier(call.deadline).await.is_ok();
        let nowhere_else = if told { self.nowhere_else() } else { Vec::new() };
        Ok(ZoneResponse { index, changed, nowhere_else })
    }

    /// Refuses that a node goes without which nobody would get requests: all others are in drained zones, stop, or do not answer.
    pub(super) async fn check_zones_without(&self, call: &Call, node: NodeId) -> Result<(), Status> {
        self.backplane.read_barrier(call.deadline).await?;
        let (drained, nodes) = (self.backplane.drained_zones(), self.backplane.node_zones());
        let (gone, mut stay): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|(id, _)| *id == node);
        let serves = |(_, zone): &(NodeId, String)| !drained.is_drained(zone);
        if !gone.iter().any(serves) || stay.is_empty() {
            return Ok(());
        }
        let there = self.staying(call).await?;
        stay.retain(|(node, _)| there.contains(&node.0));
        if stay.iter().any(serves) {
            return Ok(());
        }
        let zones: BTreeSet<&str> = stay.iter().map(|(_, zone)| zone.as_str()).collect();
        let zones = zones.into_iter().collect::<Vec<_>>().join(", ");
        let others =
            if zones.is_empty() { "no other stays".to_owned() } else { format!("undrain one of {zones} first") };
        let message = format!("no node would get requests any more without node {}: {others}", node.0);
        Err(refuse(Reason::Refused, message))
    }

    /// The members that get requests where their zone is not drained: those that answer, and do not stop. Time stays for what
    /// follows where one does not answer.
    async fn staying(&self, call: &Call) -> Result<BTreeSet<u64>, Status> {
        let until = call.deadline.min(Instant::now() + TAKEN_BACK_WITHIN);
        loop {
            let members = self.backplane.members(call.deadline.min(Instant::now() + ASK_TIMEOUT)).await?;
            let drained = self.backplane.drained_zones();
            let leaves = |it: &NodeStatus| it.state == DRAINING && !drained.is_drained(&it.zone);
            // Or its zone was taken back just now, and it has not heard yet.
            if members.iter().any(leaves) && Instant::now() + ASK_AGAIN < until {
                sleep(ASK_AGAIN).await;
                continue;
            }
            let stays = |it: &NodeStatus| it.state != UNREACHABLE && !leaves(it);
            return Ok(members.into_iter().filter(stays).map(|member| member.id).collect());
        }
    }

    /// Upstreams whose endpoints are all in drained zones: nodes use those still, as the other choice is to answer nobody.
    fn nowhere_else(&self) -> Vec<String> {
        let (catalog, drained) = (self.backplane.config().borrow().catalog.clone(), self.backplane.drained_zones());
        let stays = |zones: &[&str]| !zones.is_empty() && zones.iter().all(|zone| drained.is_drained(zone));
        upstreams(&catalog).filter(|(_, zones)| stays(zones)).map(|(name, _)| name).collect()
    }

    pub(super) async fn status_zones(&self, call: &Call) -> Result<StatusZonesResponse, Status> {
        self.backplane.read_barrier(call.deadline).await?;
        Ok(StatusZonesResponse { zones: self.zones() })
    }

    /// Every zone, by name, as this node has applied it.
    fn zones(&self) -> Vec<ZoneStatus> {
        let drained = self.backplane.drained_zones();
        let mut zones: BTreeMap<String, ZoneStatus> =
            drained.names().map(|zone| (zone.to_owned(), named(zone))).collect();
        for (node, zone) in self.backplane.node_zones() {
            zones.entry(zone.clone()).or_insert_with(|| named(&zone)).nodes.push(node.0);
        }
        let catalog = self.backplane.config().borrow().catalog.clone();
        for (_, endpoint_zones) in upstreams(&catalog) {
            for zone in endpoint_zones.into_iter().filter(|zone| !zone.is_empty()) {
                zones.entry(zone.to_owned()).or_insert_with(|| named(zone)).endpoints += 1;
            }
        }
        for zone in zones.values_mut() {
            zone.nodes.sort_unstable();
            if let Some(row) = drained.get(&zone.zone) {
                zone.drained = true;
                zone.drained_at = Timestamp(row.since_us).to_string();
                zone.drained_by.clone_from(&row.actor);
            }
        }
        zones.into_values().collect()
    }
}

fn named(zone: &str) -> ZoneStatus {
    ZoneStatus { zone: zone.to_owned(), ..ZoneStatus::default() }
}

fn unknown(zone: &str, zones: &[ZoneStatus]) -> String {
    let names: Vec<&str> = zones.iter().take(TOLD).map(|zone| zone.zone.as_str()).collect();
    let more = zones.len().saturating_sub(TOLD);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let zone: String = zone.chars().take(100).collect();
    format!("there is no zone `{zone}`: no node and no endpoint is in it; there are {}{more}", names.join(", "))
}

/// Upstreams, and the zone of each endpoint that gets requests; empty where it is in none.
fn upstreams(catalog: &Catalog) -> impl Iterator<Item = (String, Vec<&str>)> {
    let of = |kind: Kind| {
        catalog.kind(kind).iter().map(move |(name, stored)| (format!("{} {name}", kind.singular()), stored))
    };
    of(Kind::Service).chain(of(Kind::Provider)).map(|(name, stored)| (name, endpoint_zones(&stored.resource)))
}

fn endpoint_zones(resource: &Resource) -> Vec<&str> {
    let used = |weight: Option<u32>| weight != Some(0);
    match &resource.kind {
        Some(resource::Kind::Service(it)) => {
            let endpoints = it.spec.iter().flat_map(|spec| &spec.endpoints);
            endpoints.filter(|it| used(it.weight)).map(|it| it.zone.as_str()).collect()
        }
        Some(resource::Kind::Provider(it)) => {
            let endpoints = it.spec.iter().flat_map(|spec| &spec.endpoints);
            endpoints.filter(|it| used(it.weight)).map(|it| it.zone.as_str()).collect()
        }
        _ => Vec::new(),
    }
}
