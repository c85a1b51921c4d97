//! Watching: what is there, then every later state, by comparing one catalog with the next.
//!
//! A watcher that is slow holds back only itself: it skips to the newest state, and what is kept for it is one catalog,
//! which shares all it can with the others. It is told only as long as its token would open a new watch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_model::{Kind, Name, catalog::Stored};
use tollgate_proto::admin::v1::{WatchEvent, WatchRequest};
use tonic::Status;

use super::{Config, plan::identity, read::Wanted};
use crate::{
    auth::{Access, Standing},
    backplane::ConfigState,
    call::Call,
    details::{Reason, refuse},
};

/// Watchers at a time on one node. Each holds a task and perhaps an old catalog. More are refused.
const MAX_WATCHERS: usize = 256;
/// Events on their way to one caller; when full, the watcher waits and then skips to the newest state.
const QUEUE_EVENTS: usize = 64;
/// Between two looks at the token of a watch that has nothing to tell: what was revoked ends this much later at the most.
const TOKEN_LOOK: Duration = Duration::from_millis(250);
/// How long the reason for an end may wait for a caller that does not read: then it sees the stream end without one.
const LAST_WORD: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<WatchEvent, Status>>;
/// What a watcher has told, by kind and name.
type Told = BTreeMap<(Kind, Name), Arc<Stored>>;
/// Its caller has left, or may not be told any more.
struct Gone;

/// The watchers of one node.
#[derive(Debug, Clone)]
pub(crate) struct Watchers {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Watchers {
    /// Watchers that end with `stop`, as tasks of `tasks`.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_WATCHERS)), tasks, stop }
    }
}

impl Config {
    pub(super) async fn watch(
        &self,
        call: &Call,
        request: WatchRequest,
    ) -> Result<ReceiverStream<Result<WatchEvent, Status>>, Status> {
        let wanted = Wanted::parse(&request.kind, request.name, request.selector)?;
        let place = Arc::clone(&self.watchers.places).try_acquire_owned();
        let place = place.map_err(|_| refuse(Reason::Busy, "too many watchers on this node"))?;
        self.current(call).await?;
        let (events, stream) = mpsc::channel(QUEUE_EVENTS);
        let standing = Standing::new(Arc::clone(&self.backplane), call.caller.clone(), Access::Read);
        let config = self.backplane.config();
        let watcher = Watcher { wanted, config, events, told: Told::new(), standing: standing.clone(), _place: place };
        let stop = self.watchers.stop.clone();
        self.watchers.tasks.spawn(async move {
            let events = watcher.events.clone();
            let end = tokio::select! {
                () = watcher.run() => standing.check().err(),
                end = lost(&standing) => Some(end),
                () = events.closed() => None,
                () = stop.cancelled() => Some(refuse(Reason::NoLeader, "this node is stopping: watch another one")),
            };
            if let Some(end) = end {
                let _ = tokio::time::timeout(LAST_WORD, events.send(Err(end))).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

/// Resolves once the token is good for a watch no more.
async fn lost(standing: &Standing) -> Status {
    loop {
        if let Err(end) = standing.check() {
            return end;
        }
        tokio::time::sleep(TOKEN_LOOK).await;
    }
}

struct Watcher {
    wanted: Wanted,
    config: watch::Receiver<ConfigState>,
    events: Sender,
    told: Told,
    standing: Standing,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    async fn run(mut self) {
        let first = self.config.borrow_and_update().clone();
        if self.begin(&first).await.is_err() {
            return;
        }
        while self.config.changed().await.is_ok() {
            let state = self.config.borrow_and_update().clone();
            if self.tell_changes(&state).await.is_err() {
                return;
            }
        }
    }

    async fn begin(&mut self, state: &ConfigState) -> Result<(), Gone> {
        let present = self.select(state);
        for stored in present.values() {
            self.tell("present", Some(stored), state).await?;
        }
        self.told = present;
        self.tell("synced", None, state).await
    }

    async fn tell_changes(&mut self, state: &ConfigState) -> Result<(), Gone> {
        let now = self.select(state);
        let before = std::mem::take(&mut self.told);
        for (key, stored) in &now {
            match before.get(key) {
                None => self.tell("created", Some(stored), state).await?,
                Some(old) if old.version != stored.version => self.tell("updated", Some(stored), state).await?,
                Some(_) => {}
            }
        }
        for (key, stored) in &before {
            if !now.contains_key(key) {
                self.tell("deleted", Some(stored), state).await?;
            }
        }
        self.told = now;
        Ok(())
    }

    fn select(&self, state: &ConfigState) -> Told {
        let Wanted { kind, name, selector } = &self.wanted;
        let named = state.catalog.list(*kind, selector).filter_map(|stored| {
            let (kind, metadata) = identity(&stored.resource)?;
            Some(((kind, Name::new(&metadata?.name)), Arc::clone(stored)))
        });
        named.filter(|((_, found), _)| name.as_ref().is_none_or(|name| *found == name.as_str())).collect()
    }

    async fn tell(&self, action: &str, stored: Option<&Arc<Stored>>, state: &ConfigState) -> Result<(), Gone> {
        let resource = stored.map(|stored| stored.resource.clone());
        let event = WatchEvent { action: action.to_owned(), resource, index: state.index.0 };
        let room = self.events.reserve().await.map_err(|_| Gone)?;
        // Looked at last: a caller that reads slowly may have waited for long.
        self.standing.check().map_err(|_| Gone)?;
        room.send(Ok(event));
        Ok(())
    }
}
