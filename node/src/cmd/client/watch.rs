//! `tollgate get --watch`: what is there, then every change. A node that goes away is replaced by another one, and what
//! changed meanwhile is found by comparing what is there with what was told.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde_json::json;
use tollgate_model::yaml;
use tollgate_proto::{
    admin::v1::{WatchEvent, WatchRequest},
    v1::Resource,
};
use tonic::Streaming;

use super::{
    connection::Connection,
    files::identity,
    get::row,
    output::{Format, write},
};

/// Before another node is asked for what this one no longer tells.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// Kind and name.
type Key = (String, String);

/// Prints events until interrupted, or until no node answers within the connection's time limit.
pub(super) async fn run(connection: &Connection, request: &WatchRequest, output: Format) -> anyhow::Result<()> {
    let mut watch = Watch { output, known: BTreeMap::new() };
    loop {
        let open = async |at: &super::connection::Attempt| at.config().watch(at.stream_request(request.clone())).await;
        let events = connection.read(open).await?.into_inner();
        watch.follow(events).await?;
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

struct Watch {
    output: Format,
    /// What was told, and of which version.
    known: BTreeMap<Key, (u64, Resource)>,
}

impl Watch {
    /// Until the stream ends, for whatever reason.
    async fn follow(&mut self, mut events: Streaming<WatchEvent>) -> anyhow::Result<()> {
        let mut present = BTreeMap::new();
        let mut synced = false;
        while let Ok(Some(event)) = events.message().await {
            match (event.action.as_str(), event.resource) {
                ("synced", _) => {
                    synced = true;
                    self.resume(std::mem::take(&mut present), event.index)?;
                }
                (_, Some(resource)) if !synced => drop(present.insert(key(&resource), resource)),
                (action, Some(resource)) => self.tell(action, resource, event.index)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Tells what is different from what was told before.
    fn resume(&mut self, present: BTreeMap<Key, Resource>, index: u64) -> anyhow::Result<()> {
        let first = self.known.is_empty();
        let gone: Vec<Resource> =
            self.known.iter().filter(|(key, _)| !present.contains_key(*key)).map(|(_, (_, it))| it.clone()).collect();
        for resource in gone {
            self.tell("deleted", resource, index)?;
        }
        for (key, resource) in present {
            match self.known.get(&key) {
                Some((told, _)) if *told == version(&resource) => {}
                Some(_) => self.tell("updated", resource, index)?,
                None => self.tell(if first { "present" } else { "created" }, resource, index)?,
            }
        }
        Ok(())
    }

    fn tell(&mut self, action: &str, resource: Resource, index: u64) -> anyhow::Result<()> {
        write(&self.line(action, &resource, index).context("can't print an event")?)?;
        if action == "deleted" {
            self.known.remove(&key(&resource));
        } else {
            self.known.insert(key(&resource), (version(&resource), resource));
        }
        Ok(())
    }

    fn line(&self, action: &str, resource: &Resource, index: u64) -> anyhow::Result<String> {
        Ok(match self.output {
            Format::Json => {
                let event = json!({"action": action, "index": index, "resource": yaml::to_json(resource)});
                format!("{}\n", serde_json::to_string(&event)?)
            }
            Format::Yaml => format!("# {action} at {index}\n{}---\n", yaml::to_yaml(std::slice::from_ref(resource))),
            Format::Table => {
                let row = row(resource);
                let text = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
                format!("{index:>8}  {action:<8}  {} {}\n", text("kind"), text("name"))
            }
        })
    }
}

fn key(resource: &Resource) -> Key {
    let (kind, metadata) = identity(resource);
    let kind = kind.map_or_else(String::new, |kind| kind.to_string());
    (kind, metadata.map_or_else(String::new, |metadata| metadata.name.clone()))
}

fn version(resource: &Resource) -> u64 {
    identity(resource).1.and_then(|metadata| metadata.resource_version).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tollgate_proto::v1::{Metadata, Tenant, resource};

    use super::*;

    fn tenant(name: &str, version: u64) -> Resource {
        let metadata = Metadata { name: name.into(), resource_version: Some(version), ..Metadata::default() };
        Resource { kind: Some(resource::Kind::Tenant(Tenant { metadata: Some(metadata), ..Tenant::default() })) }
    }

    #[test]
    fn after_a_cut_only_what_changed_is_told() {
        let mut watch = Watch { output: Format::Json, known: BTreeMap::new() };
        let present = |all: &[(&str, u64)]| {
            all.iter().map(|(name, version)| tenant(name, *version)).map(|it| (key(&it), it)).collect()
        };
        watch.resume(present(&[("a", 1), ("b", 2), ("c", 3)]), 3).unwrap();
        watch.resume(present(&[("a", 1), ("b", 5), ("d", 6)]), 6).unwrap();
        let known: Vec<(String, u64)> =
            watch.known.iter().map(|((_, name), (version, _))| (name.clone(), *version)).collect();
        assert_eq!(known, [("a".into(), 1), ("b".into(), 5), ("d".into(), 6)]);
        let line: Value = serde_json::from_str(&watch.line("updated", &tenant("b", 5), 6).unwrap()).unwrap();
        assert_eq!((line["action"].as_str(), line["index"].as_u64()), (Some("updated"), Some(6)));
    }
}
