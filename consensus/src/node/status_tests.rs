use std::{net::SocketAddr, sync::Mutex, time::Duration};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::{
    Applied, CallHandlers, Changes, Clock, Config, FirstMember, Formation, Image, Listen, OnFatal, PeerTls, Row,
    SnapshotPolicy, StateMachine, Timing, node::start,
};

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Applied, _: &[u8], _: &mut Changes) -> Bytes {
        Bytes::new()
    }

    fn image(&self) -> Image {
        Box::new(std::iter::empty())
    }

    fn restore(&mut self, _: &mut dyn Iterator<Item = std::io::Result<Row>>) -> std::io::Result<()> {
        Ok(())
    }
}

fn certificates(dir: &std::path::Path) -> PeerTls {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![crate::node_dns_name(1)]).unwrap().signed_by(&key, &ca).unwrap();
    let write = |file: &str, text: String| {
        let path = dir.join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    PeerTls {
        ca: write("ca.pem", ca.pem()),
        cert: write("node.pem", cert.pem()),
        key: write("node.key", key.serialize_pem()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consensus_core_that_panics_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let ended = Arc::new(Mutex::new(None));
    let told = Arc::clone(&ended);
    let config = Config {
        node: 1,
        zone: String::new(),
        data_dir: dir.path().join("data"),
        listen: Listen::Address(SocketAddr::from(([127, 0, 0, 1], 0))),
        advertise: None,
        http: String::new(),
        admin: String::new(),
        version: String::new(),
        tls: certificates(dir.path()),
        formation: Formation::Bootstrap(vec![FirstMember { node: 1, peer: "127.0.0.1:1".into() }]),
        timing: Timing::default(),
        snapshots: SnapshotPolicy::default(),
        max_command_bytes: Config::MAX_COMMAND_BYTES,
        clock: Clock::default(),
        on_fatal: OnFatal(Arc::new(move |reason| {
            told.lock().unwrap().get_or_insert(reason.to_owned());
        })),
    };
    let core = start(config, Box::new(Nothing), CallHandlers::default()).await.unwrap();
    let died = core.raft.with_raft_state(|_| panic!("what openraft would say")).await;
    assert!(died.is_err());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while ended.lock().unwrap().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(ended.lock().unwrap().as_ref().unwrap().contains("consensus"));
}
