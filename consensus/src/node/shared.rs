//! What is known of this node before it is in a cluster, and what it tells about itself.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::Core;
use crate::{
    CallHandler, CallHandlers, Local,
    identity::{Identity, Membership},
    transport::Peer,
    types::NodeInfo,
};

/// What a node says of itself until the program above says more.
const STARTING: &str = "starting";

pub(crate) struct Shared {
    info: NodeInfo,
    version: String,
    calls: CallHandlers,
    identity: Mutex<Identity>,
    local: Mutex<Local>,
    /// Where the leader that has invited this node is to be asked.
    invited: Mutex<Option<Peer>>,
    /// There while the node is a member and runs.
    core: RwLock<Option<Arc<Core>>>,
}

impl Shared {
    pub(crate) fn new(info: NodeInfo, version: String, calls: CallHandlers, identity: Identity) -> Arc<Self> {
        Arc::new(Self {
            info,
            version,
            calls,
            identity: Mutex::new(identity),
            local: Mutex::new(Local { state: STARTING.to_owned(), ..Local::default() }),
            invited: Mutex::default(),
            core: RwLock::default(),
        })
    }

    pub(crate) fn info(&self) -> &NodeInfo {
        &self.info
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn handler(&self, service: &str) -> Option<CallHandler> {
        self.calls.get(service).cloned()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock() = identity;
    }

    pub(crate) fn set_member(&self, member: Membership) {
        self.identity.lock().member = Some(member);
    }

    pub(crate) fn local(&self) -> Local {
        self.local.lock().clone()
    }

    pub(crate) fn set_local(&self, local: Local) {
        *self.local.lock() = local;
    }

    /// The last invitation counts: whoever leads invites.
    pub(crate) fn invite(&self, leader: Peer) {
        *self.invited.lock() = Some(leader);
    }

    pub(crate) fn invited(&self) -> Option<Peer> {
        self.invited.lock().clone()
    }

    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.read().clone()
    }

    pub(crate) fn set_core(&self, core: Option<Arc<Core>>) {
        *self.core.write() = core;
    }
}
