//! What HTTP/2 asks of a server, clause by clause, on raw frames: all that h2spec looks at, and more.
//!
//! Each table is of one subject. Where a specification leaves a choice, each reaction that it names is right; what is said
//! to be h2's way is within the clause, too, or no more than another code on a connection that ends anyway. After each case
//! a new connection is served, and at the end of a table nothing of it is left.

mod compression;
mod frames;
mod messages;
mod streams;
mod windows;
mod wire;

use std::fmt;

use tokio::net::TcpStream;

use crate::{
    cluster::{Cluster, until},
    https,
    pki::Authority,
    upstream::{Reply, Upstream, answer},
};
use wire::{ACK, Code, Frame, GOAWAY, HEADERS, NO_ERROR, PING, PROTOCOL_ERROR, RST_STREAM, SETTINGS, Wire, get};

/// `/` is answered here, `/up` by an upstream that waits for the whole of a request, `/held` by nobody for a while, and
/// what is behind it is not read; `/large` has more than a window of 65,535 bytes.
fn resources(upstream: &Upstream) -> String {
    let route = |name: &str, path: &str, does: &str| {
        let matching = format!("match: [{{path: {{exact: {path}}}}}]");
        format!("---\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{{matching}, {does}}}\n")
    };
    let service = format!(
        "kind: Service\nmetadata: {{name: up}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n",
        upstream.address
    );
    let fixed = "response: {status: 200, body: fine}";
    let held = format!("{fixed}, faults: {{delay: {{percent: 100, for: 30s}}}}");
    let large = format!("response: {{status: 200, body: {}}}", "x".repeat(100_000));
    [
        service,
        route("fixed", "/", fixed),
        route("up", "/up", "backends: [{service: up}]"),
        route("held", "/held", &held),
        route("large", "/large", &large),
    ]
    .concat()
}

/// How a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In clear text, with prior knowledge (RFC 9113 §3.3).
    Clear,
    /// Over TLS, agreed on by ALPN (RFC 9113 §3.2).
    Tls,
}

/// A running gateway.
struct Scene {
    cluster: Cluster,
    upstream: Upstream,
    tls: rustls::ClientConfig,
}

impl Scene {
    async fn set() -> Self {
        let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
        let authority = Authority::new();
        let certificate = https::resource("test", "a.test", &authority.issue(&["a.test"]), "");
        let cluster = Cluster::start(&(resources(&upstream) + &certificate)).await;
        let mut tls = https::client(&authority, None);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self { cluster, upstream, tls }
    }

    /// A connection on which nothing is said yet.
    async fn connect(&self, way: Way) -> Wire {
        match way {
            Way::Clear => Wire::new(TcpStream::connect(self.cluster.address).await.unwrap()),
            Way::Tls => {
                let tcp = TcpStream::connect(self.cluster.tls).await.unwrap();
                Wire::new(https::connect(tcp, &self.tls, "a.test").await.unwrap())
            }
        }
    }

    /// One past its preface, on which answers' heads are of no dynamic table.
    async fn begun(&self, way: Way) -> Wire {
        let mut wire = self.connect(way).await;
        wire.begin(&[(HEADER_TABLE_SIZE, 0)]).await;
        wire
    }

    /// Whether a new connection is served.
    async fn serves(&self, way: Way) -> bool {
        let mut wire = self.begun(way).await;
        wire.send(&get(1, "/")).await;
        observe(&mut wire, 1).await == Outcome::Answered(1, 200)
    }

    /// Runs a table, and says all at once what was not as it is to be.
    async fn run(&self, way: Way, table: Vec<Case>) {
        let mut wrong = Vec::new();
        for case in table {
            let (name, wants) = (format!("{}: {}", case.clause, case.what), case.wants.clone());
            let outcome = case.run(self, way).await;
            if !wants.allows(&outcome) {
                wrong.push(format!("{name}: {outcome:?}, and not {wants:?}"));
            }
            if !self.serves(way).await {
                wrong.push(format!("{name}: the next connection is not served"));
            }
        }
        assert!(wrong.is_empty(), "{} cases over {way:?}:\n{}", wrong.len(), wrong.join("\n"));
        until("nothing of it to be left", || self.cluster.gateway.in_flight() == 0).await;
    }
}

const HEADER_TABLE_SIZE: u16 = 1;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// GOAWAY with an error, and then the end.
    Ended(Code),
    /// The same, and the connection stays open, which §5.4.1 forbids.
    NeverEnded(Code),
    /// The end without a word.
    Closed,
    Reset(u32, Code),
    /// A whole answer of a stream, with this status.
    Answered(u32, u16),
    /// A PING came back.
    Echoed,
    Nothing,
}

/// What of that is right.
#[derive(Clone)]
enum Want {
    /// A connection error (§5.4.1), where the connection may also just be closed.
    Ends(Vec<Code>),
    /// A stream error (§5.4.2), and nothing worse.
    Resets(u32, Vec<Code>),
    /// A stream error, of which an endpoint may make a connection error (§5.4.1).
    ResetsOrEnds(u32, Vec<Code>),
    /// A malformed request: a stream error, before which a server may say 400 (§8.1.1).
    Malformed(u32),
    Answers(u32, u16),
    /// All goes on.
    Echoes,
}

impl Want {
    fn allows(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Ends(codes) | Self::ResetsOrEnds(_, codes), Outcome::Ended(code)) => codes.contains(code),
            (Self::Ends(_) | Self::ResetsOrEnds(..), Outcome::Closed) => true,
            (Self::Resets(of, codes) | Self::ResetsOrEnds(of, codes), Outcome::Reset(stream, code)) => {
                of == stream && codes.contains(code)
            }
            (Self::Malformed(of), Outcome::Reset(stream, code)) => of == stream && *code == PROTOCOL_ERROR,
            (Self::Malformed(of), Outcome::Answered(stream, status)) => of == stream && *status == 400,
            (Self::Answers(of, wanted), Outcome::Answered(stream, status)) => (of, wanted) == (stream, status),
            (Self::Echoes, Outcome::Echoed) => true,
            _ => false,
        }
    }

    /// Whose answer decides.
    fn stream(&self) -> u32 {
        match self {
            Self::Resets(of, _) | Self::ResetsOrEnds(of, _) | Self::Malformed(of) | Self::Answers(of, _) => *of,
            Self::Ends(_) | Self::Echoes => 0,
        }
    }
}

impl fmt::Debug for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends(codes) => write!(f, "Ended with one of {codes:?}"),
            Self::Resets(stream, codes) => write!(f, "Reset({stream}) with one of {codes:?}"),
            Self::ResetsOrEnds(stream, codes) => write!(f, "Reset({stream}) or Ended with one of {codes:?}"),
            Self::Malformed(stream) => write!(f, "Reset({stream}) or 400 as malformed"),
            Self::Answers(stream, status) => write!(f, "Answered({stream}, {status})"),
            Self::Echoes => write!(f, "Echoed"),
        }
    }
}

/// The first thing that decides; answers only of the stream that is asked about, and what comes back only where no stream is.
async fn observe(wire: &mut Wire, of: u32) -> Outcome {
    let mut status = 0;
    loop {
        let frame = match wire.next_within(wire::PATIENCE).await {
            Some(Some(frame)) => frame,
            Some(None) => return Outcome::Closed,
            None => return Outcome::Nothing,
        };
        match frame.kind {
            GOAWAY if Code(frame.number(4)) != NO_ERROR => {
                let code = Code(frame.number(4));
                return if wire.is_closed().await { Outcome::Ended(code) } else { Outcome::NeverEnded(code) };
            }
            RST_STREAM => return Outcome::Reset(frame.stream, Code(frame.number(0))),
            PING if of == 0 && frame.flags & ACK != 0 => return Outcome::Echoed,
            HEADERS if frame.stream == of && status == 0 => status = frame.status(),
            _ => {}
        }
        if frame.stream == of && frame.ends_stream() {
            return Outcome::Answered(of, status);
        }
    }
}

enum Step {
    Send(Vec<u8>),
    Await(Box<dyn Fn(&Frame) -> bool + Send>),
}

/// What is said on one connection, and what has to come of it.
struct Case {
    clause: &'static str,
    what: &'static str,
    begins: bool,
    steps: Vec<Step>,
    wants: Want,
}

/// On a connection past its preface.
fn case(clause: &'static str, what: &'static str) -> Case {
    Case { clause, what, begins: true, steps: Vec::new(), wants: Want::Echoes }
}

/// On a connection where nothing was said.
fn from_the_start(clause: &'static str, what: &'static str) -> Case {
    Case { begins: false, ..case(clause, what) }
}

impl Case {
    fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    /// What follows is said once such a frame has come.
    fn after(mut self, is_it: impl Fn(&Frame) -> bool + Send + 'static) -> Self {
        self.steps.push(Step::Await(Box::new(is_it)));
        self
    }

    /// What follows is said once this stream was answered.
    fn answered(self, stream: u32) -> Self {
        self.after(move |frame| frame.stream == stream && frame.ends_stream())
    }

    /// What follows is said once settings were taken.
    fn taken(self) -> Self {
        self.after(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0)
    }

    fn ends(self, codes: &[Code]) -> Case {
        Case { wants: Want::Ends(codes.to_vec()), ..self }
    }

    /// For a code of its own h2 says that the protocol was broken, and ends the connection as is asked.
    fn ends_as_h2_says(self, code: Code) -> Case {
        self.ends(&[code, PROTOCOL_ERROR])
    }

    /// For a code of its own h2 says that the protocol was broken, and ends the connection of a stream's error.
    fn resets_or_ends_as_h2_says(self, stream: u32, code: Code) -> Case {
        self.resets_or_ends(stream, &[code, PROTOCOL_ERROR])
    }

    fn resets(self, stream: u32, codes: &[Code]) -> Case {
        Case { wants: Want::Resets(stream, codes.to_vec()), ..self }
    }

    fn resets_or_ends(self, stream: u32, codes: &[Code]) -> Case {
        Case { wants: Want::ResetsOrEnds(stream, codes.to_vec()), ..self }
    }

    fn malformed(self, stream: u32) -> Case {
        Case { wants: Want::Malformed(stream), ..self }
    }

    fn answers(self, stream: u32, status: u16) -> Case {
        Case { wants: Want::Answers(stream, status), ..self }
    }

    /// What was said is taken or passed over: a PING behind it comes back, and a request is served.
    fn goes_on(self, stream: u32) -> Case {
        self.send(get(stream, "/")).answers(stream, 200)
    }

    fn echoes(self) -> Case {
        Case { wants: Want::Echoes, ..self.send(wire::frame(PING, 0, 0, b"12345678")) }
    }

    async fn run(self, scene: &Scene, way: Way) -> Outcome {
        let mut wire = scene.connect(way).await;
        if self.begins {
            wire.begin(&[(HEADER_TABLE_SIZE, 0)]).await;
            // The acknowledgement of that is none of a case's.
            wire.until("its settings are taken", |frame| frame.kind == SETTINGS && frame.flags & ACK != 0).await;
        }
        for step in self.steps {
            match step {
                Step::Send(bytes) => wire.send(&bytes).await,
                Step::Await(is_it) => {
                    let mut frame = wire.next_within(wire::PATIENCE).await;
                    while frame.as_ref().is_some_and(|it| it.as_ref().is_some_and(|frame| !is_it(frame))) {
                        frame = wire.next_within(wire::PATIENCE).await;
                    }
                    match frame {
                        Some(Some(_)) => {}
                        Some(None) => return Outcome::Closed,
                        None => return Outcome::Nothing,
                    }
                }
            }
        }
        observe(&mut wire, self.wants.stream()).await
    }
}

#[tokio::test]
async fn frames_are_as_they_have_to_be() {
    Scene::set().await.run(Way::Clear, frames::table()).await;
}

#[tokio::test]
async fn streams_live_as_they_have_to() {
    Scene::set().await.run(Way::Clear, streams::table()).await;
}

#[tokio::test]
async fn requests_are_well_formed_or_refused() {
    let scene = Scene::set().await;
    scene.run(Way::Clear, messages::table()).await;
    let seen = scene.upstream.requests();
    let is_clean = |request: &String| ["malformed", "#", ":method", ":status"].iter().all(|it| !request.contains(it));
    assert!(seen.iter().all(is_clean), "an upstream was asked: {seen:?}");
}

#[tokio::test]
async fn header_blocks_are_decoded_or_end_the_connection() {
    Scene::set().await.run(Way::Clear, compression::table()).await;
}

#[tokio::test]
async fn all_that_holds_over_tls() {
    let scene = Scene::set().await;
    for table in [frames::table(), streams::table(), messages::table(), compression::table()] {
        scene.run(Way::Tls, table).await;
    }
}

#[tokio::test]
async fn what_alpn_has_agreed_on_is_spoken() {
    let mut scene = Scene::set().await;
    // RFC 9113 §3.4: a preface that is none. What HTTP/1 would make of it is not tried.
    let mut wire = scene.connect(Way::Tls).await;
    wire.send(b"GET /up HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    assert_eq!(observe(&mut wire, 1).await, Outcome::Closed);
    assert!(scene.upstream.requests().is_empty());
    // RFC 7301 §3.2
    scene.tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut wire = scene.connect(Way::Tls).await;
    wire.send(&[wire::PREFACE, &wire::settings(&[]), &get(1, "/up")].concat()).await;
    assert!(wire.all().await.starts_with(b"HTTP/1.1 "), "it is refused as HTTP/1");
    assert!(scene.upstream.requests().is_empty());
    // Nothing was said, so that the preface does.
    scene.tls.alpn_protocols.clear();
    assert!(scene.serves(Way::Tls).await);
}
