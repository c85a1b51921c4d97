//! Carries what nodes tell each other of their upstreams (`tollgate_gateway::UpstreamsWord`) over the peer protocol, which knows who speaks.
//!
//! Not by the log: a word is old within a second, each node can do without it, and a key must be rested while there is no
//! leader, too. So it is said, never answered, and not said again to whom it did not reach: the next word has all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tollgate_consensus::{CallHandler, Consensus};
use tollgate_gateway::{Gateway, KeyIsWell, KeyPlace, KeyRests, UpstreamLoad, UpstreamsWord};
use tollgate_model::{Kind, LogIndex, Name};
use tollgate_proto::peer::v1;
use tracing::{debug, error};

/// What peers call this by.
pub(crate) const SERVICE: &str = "upstreams";
/// How often it is looked whether a key is rested, or taken again.
const LOOK: Duration = Duration::from_millis(100);
/// So many looks later everything is said, changed or not.
const EVERY: u32 = 5;
/// For one word to one node; none is said to it meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);
/// Of one word; a gateway says less.
const MOST_BYTES: usize = 512 << 10;

/// Hears other nodes, once there is a gateway.
#[derive(Clone, Default)]
pub(crate) struct Hearing(Arc<OnceLock<Gateway>>);

/// The last word of each node, by the process that said it. Whoever has left stays in it: node ids are few.
#[derive(Default)]
struct Heard(BTreeMap<u64, (u64, u64)>);

impl Heard {
    /// Whether no later word of the same process came before.
    fn is_next(&mut self, node: u64, process: u64, number: u64) -> bool {
        let is_next = self.0.get(&node).is_none_or(|&(known, last)| known != process || last < number);
        if is_next {
            self.0.insert(node, (process, number));
        }
        is_next
    }
}

impl Hearing {
    /// The gateway is there from now on.
    pub(crate) fn begin(&self, gateway: Gateway) {
        // The first one stays: a process has one gateway.
        let _ = self.0.set(gateway);
    }

    pub(crate) fn handler(&self) -> CallHandler {
        let (hearing, heard) = (self.clone(), Arc::new(Mutex::new(Heard::default())));
        Arc::new(move |node, body| {
            let said = hear(&hearing, &heard, node, body);
            Box::pin(async move { said.map(|()| Bytes::new()) })
        })
    }
}

fn hear(hearing: &Hearing, heard: &Mutex<Heard>, node: u64, body: Bytes) -> Result<(), String> {
    let Some(gateway) = hearing.0.get() else { return Ok(()) };
    if body.len() > MOST_BYTES {
        return Err(format!("a word of {} bytes is longer than {MOST_BYTES}", body.len()));
    }
    let word = v1::UpstreamsWord::decode(body).map_err(|error| error.to_string())?;
    let mut heard = heard.lock();
    if heard.is_next(node, word.process, word.number) {
        gateway.hear_peer(node, &read(word)?);
    }
    Ok(())
}

/// Tells the other nodes, for as long as this one runs.
pub(crate) async fn tell(gateway: Gateway, consensus: Consensus) {
    let (process, mut number, mut ticks) = (rand::random(), 0, 0_u32);
    let mut speaking = Speaking::default();
    let (mut said, mut looks) = (Keys::default(), interval(LOOK));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        ticks = (ticks + 1) % EVERY;
        if ticks == 0 {
            gateway.begin_interval(); // before the word, which says what this node takes of the others
        }
        let word = gateway.upstreams_word();
        let keys = Keys::of(&word);
        if ticks != 0 && keys == said {
            continue;
        }
        (said, number) = (keys, number + 1);
        speaking.say(&consensus, &write(&word, process, number).encode_to_vec().into());
    }
}

/// Which keys rest, and which are well.
#[derive(Default, PartialEq, Eq)]
struct Keys(Vec<KeyPlace>, Vec<KeyPlace>);

impl Keys {
    fn of(word: &UpstreamsWord) -> Self {
        let resting = word.resting.iter().map(|it| it.place.clone()).collect();
        Self(resting, word.well.iter().map(|it| it.place.clone()).collect())
    }
}

/// The words that are under way: one to each node at most, so that one which does not answer delays no other. Dropping it ends them.
#[derive(Default)]
struct Speaking {
    tasks: JoinSet<u64>,
    to: BTreeSet<u64>,
}

impl Speaking {
    fn say(&mut self, consensus: &Consensus, word: &Bytes) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(node) => drop(self.to.remove(&node)),
                Err(error) => {
                    error!(%error, "a word to another node was not said to its end");
                    self.to.clear(); // whose it was is not known; a second one does no harm
                }
            }
        }
        let status = consensus.status();
        for node in status.members.iter().map(|member| member.node).filter(|node| *node != status.node) {
            if self.to.insert(node) {
                self.tasks.spawn(say(consensus.clone(), node, word.clone()));
            }
        }
    }
}

async fn say(consensus: Consensus, node: u64, word: Bytes) -> u64 {
    let deadline = (Instant::now() + PATIENCE).into_std();
    if let Err(error) = consensus.call(node, SERVICE, word, deadline).await {
        debug!(peer = node, %error, "another node was not told how upstreams are");
    }
    node
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn write(word: &UpstreamsWord, process: u64, number: u64) -> v1::UpstreamsWord {
    let key = |place: &KeyPlace, left: Duration, age: Duration, status: u16| v1::KeyWord {
        provider: place.provider.to_string(),
        version: place.version.0,
        key: place.key,
        left_ms: millis(left),
        age_ms: millis(age),
        status: status.into(),
    };
    let load = |load: &UpstreamLoad| v1::LoadWord {
        kind: load.kind.to_string(),
        name: load.name.to_string(),
        in_flight: load.in_flight,
        again: load.again,
    };
    v1::UpstreamsWord {
        process,
        number,
        resting: word.resting.iter().map(|it| key(&it.place, it.left, it.age, it.status)).collect(),
        well: word.well.iter().map(|it| key(&it.place, Duration::ZERO, it.age, 0)).collect(),
        loads: word.loads.iter().map(load).collect(),
    }
}

/// What it says; of an upstream of a kind that is not known here, nothing.
fn read(word: v1::UpstreamsWord) -> Result<UpstreamsWord, String> {
    let place = |key: &v1::KeyWord| KeyPlace {
        provider: Name::new(&key.provider),
        version: LogIndex(key.version),
        key: key.key,
    };
    let age = |key: &v1::KeyWord| Duration::from_millis(key.age_ms);
    let rests = |key: &v1::KeyWord| {
        let status = u16::try_from(key.status).map_err(|_| format!("{} is no status", key.status))?;
        Ok(KeyRests { place: place(key), left: Duration::from_millis(key.left_ms), age: age(key), status })
    };
    let load = |load: &v1::LoadWord| {
        let kind = [Kind::Service, Kind::Provider].into_iter().find(|kind| kind.to_string() == load.kind)?;
        Some(UpstreamLoad { kind, name: Name::new(&load.name), in_flight: load.in_flight, again: load.again })
    };
    Ok(UpstreamsWord {
        resting: word.resting.iter().map(rests).collect::<Result<_, String>>()?,
        well: word.well.iter().map(|key| KeyIsWell { place: place(key), age: age(key) }).collect(),
        loads: word.loads.iter().filter_map(load).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        let place = |key| KeyPlace { provider: Name::new("openai"), version: LogIndex(7), key };
        let second = Duration::from_secs(1);
        let word = UpstreamsWord {
            resting: vec![KeyRests { place: place(1), left: 30 * second, age: second, status: 429 }],
            well: vec![KeyIsWell { place: place(2), age: second }],
            loads: [Kind::Service, Kind::Provider]
                .map(|kind| UpstreamLoad { kind, name: Name::new("a"), in_flight: 9, again: 2 })
                .into(),
        };
        let bytes = write(&word, 3, 4).encode_to_vec();
        assert_eq!(read(v1::UpstreamsWord::decode(&bytes[..]).unwrap()), Ok(word));
    }

    #[test]
    fn a_word_that_was_overtaken_is_not_heard_and_a_new_process_is() {
        let mut heard = Heard::default();
        let told = [(1, 9, 1), (1, 9, 3), (1, 9, 2), (2, 9, 1), (1, 5, 1), (1, 5, 1)];
        let is_next = told.map(|(node, process, number)| heard.is_next(node, process, number));
        assert_eq!(is_next, [true, true, false, true, true, false]);
    }
}
