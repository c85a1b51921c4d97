//! Messages both ways between a client and its provider, each looked at before it goes on. One task, that waits for neither of
//! them with what the other has to say: what one does not take is kept up to a bound, and then the other is not read.

use std::{collections::BTreeMap, io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_llm::{ApiError, Dialect, code};
use tollgate_quota::Touch;

use super::{
    events::{Client, Refusal, Server},
    hold::{Held, Whose},
    naming::named,
    session::{Effect, Fate, HoldId, Session, Step, Want},
};
use crate::{
    error::Rejection,
    filters::admit::{PERMIT_LOST, permit_lost},
    record::End,
    request_id::RequestId,
    websocket::{Fault, Message, Opcode, Patience, Reader, Side},
};

/// Kept for a side that takes less than the other says.
const MAX_KEPT_BYTES: usize = 256 * 1024;
/// The most of a provider's message: some seconds of sound are less than one.
const MAX_SERVER_BYTES: usize = 16 * 1024 * 1024;
/// Read at once.
const PIECE_BYTES: usize = 16 * 1024;
/// A side that was told of the end has so long to hear it.
const LAST_WORDS: Duration = Duration::from_secs(5);

const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const UNSUPPORTED: u16 = 1003;
const POLICY: u16 = 1008;
const INTERNAL: u16 = 1011;

/// A session that a provider has agreed to.
pub(crate) struct Realtime {
    session: Session,
    whose: Arc<Whose>,
    max_bytes: usize,
}

type Holding = Pin<Box<dyn Future<Output = (Want, Result<Held, Rejection>)> + Send>>;

/// How a session ends before its sides end it.
struct Over {
    ended: End,
    code: u16,
    error: Option<ApiError>,
}

impl Over {
    fn lost(side: Side) -> Self {
        let (ended, code) = if side == Side::Client { (End::Open, NORMAL) } else { (End::Broken, INTERNAL) };
        Self { ended, code, error: None }
    }

    fn broken(message: &str) -> Self {
        let error = ApiError::new(502, code::UPSTREAM_ERROR, message);
        Self { ended: End::Broken, code: INTERNAL, error: Some(error) }
    }
}

/// What one side says, and what it is to be told.
struct Half {
    reader: Reader,
    out: BytesMut,
    /// What was written may be in a buffer of its connection's.
    is_unflushed: bool,
    /// It has said that it closes.
    has_closed: bool,
}

impl Half {
    fn new(from_client: bool, max_bytes: usize) -> Self {
        Self {
            reader: Reader::new(from_client, max_bytes),
            out: BytesMut::new(),
            is_unflushed: false,
            has_closed: false,
        }
    }

    fn has_words(&self) -> bool {
        self.is_unflushed || !self.out.is_empty()
    }

    /// So much of it was told.
    fn told(&mut self, told: io::Result<usize>) -> io::Result<usize> {
        let bytes = told?;
        self.out.advance(bytes);
        self.is_unflushed = bytes > 0;
        Ok(bytes)
    }

    fn is_full(&self) -> bool {
        self.out.len() >= MAX_KEPT_BYTES
    }
}

struct Running<'a> {
    session: Session,
    whose: Arc<Whose>,
    holds: BTreeMap<HoldId, Held>,
    last_hold: HoldId,
    /// The client's event that waits, and how it reads.
    waiting: Option<(Message, Client)>,
    holding: Option<Holding>,
    /// Has begun though nothing was held for it.
    unheld: Option<Want>,
    client: Half,
    upstream: Half,
    moved: &'a (dyn Fn(Side, usize) + Sync),
}

impl Realtime {
    pub(super) fn new(session: Session, whose: Arc<Whose>, max_bytes: usize) -> Self {
        Self { session, whose, max_bytes }
    }

    /// Relays until both sides have closed, one is lost, it has been too long, or it is `cut`.
    pub(crate) async fn run<C, U>(
        self,
        client: C,
        upstream: U,
        patience: Patience,
        moved: &(dyn Fn(Side, usize) + Sync),
        cut: &CancellationToken,
    ) -> End
    where
        C: AsyncRead + AsyncWrite,
        U: AsyncRead + AsyncWrite,
    {
        let Self { session, whose, max_bytes } = self;
        let mut running = Running {
            session,
            whose,
            holds: BTreeMap::new(),
            last_hold: 0,
            waiting: None,
            holding: None,
            unheld: None,
            client: Half::new(true, max_bytes),
            upstream: Half::new(false, MAX_SERVER_BYTES),
            moved,
        };
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
        let wires = (&mut from_client, &mut to_client, &mut from_upstream, &mut to_upstream);
        let end = running.relay(wires, patience, cut).await;
        running.leave(&end);
        let (up, down) = (std::mem::take(&mut running.upstream.out), std::mem::take(&mut running.client.out));
        // The provider first: it may be at work.
        let told = async {
            let _ = to_upstream.write_all(&up).await;
            let _ = to_upstream.shutdown().await;
            let _ = to_client.write_all(&down).await;
            let _ = to_client.shutdown().await;
            // What was told might be lost with a connection that is closed while there is more to read.
            let mut rest = BytesMut::new();
            while matches!(piece(&mut from_client, &mut rest).await, Ok(1..)) {
                rest.clear();
            }
        };
        let (_, ()) = tokio::join!(timeout(LAST_WORDS, told), running.settle_the_rest());
        end.ended
    }
}

type Wires<'w, CR, CW, UR, UW> = (&'w mut CR, &'w mut CW, &'w mut UR, &'w mut UW);

impl Running<'_> {
    async fn relay<CR, CW, UR, UW>(
        &mut self,
        (from_client, to_client, from_upstream, to_upstream): Wires<'_, CR, CW, UR, UW>,
        patience: Patience,
        cut: &CancellationToken,
    ) -> Over
    where
        CR: AsyncRead + Unpin,
        CW: AsyncWrite + Unpin,
        UR: AsyncRead + Unpin,
        UW: AsyncWrite + Unpin,
    {
        let mut heard_at = Instant::now();
        let mut closes_by: Option<Instant> = None;
        loop {
            if let Err(over) = self.advance().await {
                return over;
            }
            let is_told = self.client.out.is_empty() && self.upstream.out.is_empty();
            if self.client.has_closed && self.upstream.has_closed && is_told {
                return Over { ended: End::Complete, code: NORMAL, error: None };
            }
            if closes_by.is_none() && (self.client.has_closed || self.upstream.has_closed) {
                closes_by = Some(Instant::now() + LAST_WORDS);
            }
            let silent_by = heard_at + patience.idle;
            let due = [closes_by, patience.ends_by].into_iter().flatten().fold(silent_by, Instant::min);
            let permit = self.permit();
            let reads_client = self.waiting.is_none() && self.hears_client();
            let reads_upstream = !self.client.is_full() && !self.upstream.has_closed;
            let Self { holding, client, upstream, moved, .. } = self;
            tokio::select! {
                biased;
                () = cut.cancelled() => {
                    let error = ApiError::new(503, code::NO_HEALTHY_UPSTREAM, "This gateway stops: connect again.");
                    return Over { ended: End::Cut, code: GOING_AWAY, error: Some(error) };
                }
                () = permit_lost(permit.as_deref()) => {
                    let error = ApiError::new(503, code::QUOTA_UNAVAILABLE, PERMIT_LOST);
                    return Over { ended: End::Cut, code: GOING_AWAY, error: Some(error) };
                }
                (want, held) = answered(holding) => {
                    *holding = None;
                    if let Err(over) = self.decided(want, held) {
                        return over;
                    }
                }
                told = tell(to_upstream, &upstream.out), if upstream.has_words() => match upstream.told(told) {
                    Ok(bytes) => {
                        moved(Side::Upstream, bytes);
                        heard_at = Instant::now();
                    }
                    Err(_) => return Over::lost(Side::Upstream),
                },
                told = tell(to_client, &client.out), if client.has_words() => match client.told(told) {
                    Ok(bytes) => {
                        moved(Side::Client, bytes);
                        heard_at = Instant::now();
                    }
                    Err(_) => return Over::lost(Side::Client),
                },
                read = piece(from_upstream, &mut upstream.reader.input), if reads_upstream => {
                    if !matches!(read, Ok(1..)) {
                        return Over::lost(Side::Upstream);
                    }
                }
                read = piece(from_client, &mut client.reader.input), if reads_client => {
                    if !matches!(read, Ok(1..)) {
                        return Over::lost(Side::Client);
                    }
                }
                () = sleep_until(due) => {
                    let is_closing = closes_by.is_some_and(|by| by <= due);
                    let ended = if is_closing { End::Complete } else { End::TimedOut };
                    return Over { ended, code: GOING_AWAY, error: None };
                }
            }
        }
    }

    /// The permit that may be lost first: the oldest.
    fn permit(&self) -> Option<Arc<Touch>> {
        self.holds.values().find_map(|held| held.permit.clone())
    }

    /// Whether what the client says has a place: in what its provider is told, and in what it is told itself of its mistakes.
    fn hears_client(&self) -> bool {
        !self.upstream.is_full() && !self.client.is_full() && !self.client.has_closed
    }

    fn give_back(&mut self, hold: HoldId) {
        self.holds.remove(&hold).into_iter().for_each(Held::void);
    }

    /// All that can be done without hearing more.
    async fn advance(&mut self) -> Result<(), Over> {
        loop {
            let mut is_done = true;
            while !self.client.is_full() && !self.upstream.has_closed {
                match self.upstream.reader.next() {
                    Ok(Some(message)) => {
                        self.hear_upstream(message).await?;
                        is_done = false;
                    }
                    Ok(None) => break,
                    Err(fault) => return Err(Over::broken(&format!("The provider can't be understood: {fault}."))),
                }
            }
            if self.upstream.has_closed {
                (self.waiting, self.holding) = (None, None); // nobody is there to begin anything
            }
            while self.waiting.is_none() && self.hears_client() {
                match self.client.reader.next() {
                    Ok(Some(message)) => {
                        self.hear_client(message)?;
                        is_done = false;
                    }
                    Ok(None) => break,
                    Err(fault) => return Err(self.not_understood(fault)),
                }
            }
            if self.waiting.is_some() && self.holding.is_none() && self.go_on() {
                is_done = false;
            }
            if self.waiting.is_none() && self.holding.is_none() {
                self.session.unneeded().into_iter().for_each(|hold| self.give_back(hold));
            }
            if self.holding.is_none()
                && !self.upstream.has_closed
                && let Some(want) = self.session.wanted()
            {
                self.ask(want);
            }
            if is_done {
                return Ok(());
            }
        }
    }

    fn not_understood(&self, fault: Fault) -> Over {
        let message = format!("The client can't be understood: {fault}.");
        let error = ApiError::new(400, code::INVALID_REQUEST, message);
        Over { ended: End::Open, code: fault.code(), error: Some(error) }
    }

    fn ask(&mut self, want: Want) {
        let whose = Arc::clone(&self.whose);
        self.holding = Some(Box::pin(async move { (want, whose.hold(want).await) }));
    }

    fn decided(&mut self, want: Want, held: Result<Held, Rejection>) -> Result<(), Over> {
        match held {
            Ok(held) => {
                self.last_hold += 1;
                self.holds.insert(self.last_hold, held);
                let smaller = self.session.held(self.last_hold, want);
                smaller.into_iter().for_each(|hold| self.give_back(hold));
            }
            Err(rejection) if want.is_ahead => {
                if self.session.refused(want) {
                    let error = Some(rejection.error().clone());
                    return Err(Over { ended: End::Cut, code: POLICY, error });
                }
            }
            Err(rejection) => {
                let event = self.waiting.take().and_then(|(_, event)| event.id);
                self.tell_error(rejection.error(), event.as_deref());
            }
        }
        Ok(())
    }

    fn hear_client(&mut self, message: Message) -> Result<(), Over> {
        match message.opcode {
            Opcode::Text if self.upstream.has_closed => {}
            Opcode::Text => match Client::read(&message.data) {
                Ok(event) => self.waiting = Some(named(message, event)),
                Err(refusal) => self.refuse(refusal),
            },
            Opcode::Binary => {
                let error = ApiError::new(400, code::INVALID_REQUEST, "Events are sent as text.");
                return Err(Over { ended: End::Open, code: UNSUPPORTED, error: Some(error) });
            }
            Opcode::Close => {
                self.client.has_closed = true;
                self.up(&message);
            }
            Opcode::Ping | Opcode::Pong => self.up(&message),
        }
        Ok(())
    }

    /// What becomes of the client's event that waits. Whether anything did.
    fn go_on(&mut self) -> bool {
        let Some((message, event)) = self.waiting.take() else { return false };
        match self.session.client(&event, message.data.len() as u64) {
            Step::Pass => self.up(&message),
            Step::Begin(hold) => {
                self.holds.get_mut(&hold).into_iter().for_each(|held| held.is_sent());
                self.up(&message);
            }
            Step::Hold(want) => {
                self.waiting = Some((message, event));
                self.ask(want);
                return false;
            }
            Step::Cap(cap) => {
                self.send_cap(cap);
                self.waiting = Some((message, event));
            }
            Step::Wait => {
                self.waiting = Some((message, event));
                return false;
            }
            Step::Refuse(message, param) => self.refuse(Refusal { id: event.id, message, param }),
        }
        true
    }

    /// Responses that say no bound of their own have this from here on.
    fn send_cap(&mut self, cap: u64) {
        let id = format!("event_{}", RequestId::generate().as_str());
        let session = if self.session.is_beta() {
            json!({"max_response_output_tokens": cap})
        } else {
            json!({"type": "realtime", "max_output_tokens": cap})
        };
        let update = json!({"event_id": id, "type": "session.update", "session": session});
        self.session.cap_sent(cap, id);
        self.up(&Message::text(update.to_string()));
    }

    async fn hear_upstream(&mut self, message: Message) -> Result<(), Over> {
        if matches!(message.opcode, Opcode::Text | Opcode::Binary) {
            let event = Server::read(&message.data).map_err(Over::broken)?;
            let effect = self.session.server(&event, message.data.len() as u64);
            self.follow(effect).await?;
        }
        self.upstream.has_closed |= message.opcode == Opcode::Close;
        message.write(None, &mut self.client.out);
        Ok(())
    }

    async fn follow(&mut self, effect: Effect) -> Result<(), Over> {
        match effect {
            Effect::Nothing => {}
            Effect::Began(hold) => {
                self.holds.get_mut(&hold).into_iter().for_each(|held| held.is_sent());
            }
            Effect::Wrote(hold, so_far) => {
                self.holds.get_mut(&hold).into_iter().for_each(|held| held.count(so_far));
            }
            // Before its end is told.
            Effect::Done { hold, told, probably, has_failed } => {
                let Some(held) = self.holds.remove(&hold) else { return Ok(()) };
                match told {
                    Some(told) => held.settle(told).await,
                    None if has_failed && probably.output == 0 => held.failed().await,
                    None => {
                        self.whose.shared.metrics.usage_missing(&self.whose.provider);
                        held.cut(probably).await;
                    }
                }
            }
            Effect::Void(hold) => self.give_back(hold),
            Effect::Unheld(want) => {
                self.unheld = Some(want);
                return Err(Over::broken("The provider has begun a response before one could be held for it."));
            }
            Effect::Broken(message) => return Err(Over::broken(message)),
        }
        Ok(())
    }

    fn up(&mut self, message: &Message) {
        message.write(Some(rand::random()), &mut self.upstream.out);
    }

    fn refuse(&mut self, Refusal { id, message, param }: Refusal) {
        let error = ApiError::new(400, code::INVALID_REQUEST, message);
        self.tell_error(&ApiError { param: param.map(str::to_owned), ..error }, id.as_deref());
    }

    /// As the API tells of errors: the event of the client's that it is about is named, if that has a name.
    fn tell_error(&mut self, error: &ApiError, event: Option<&str>) {
        let mut body: serde_json::Value = serde_json::from_slice(&error.body(Dialect::OpenAi)).unwrap_or_default();
        let mut error = body["error"].take();
        error["event_id"] = event.into();
        let id = format!("event_{}", RequestId::generate().as_str());
        let told = json!({"event_id": id, "type": "error", "error": error});
        Message::text(told.to_string()).write(None, &mut self.client.out);
    }

    /// Both sides are told why it ends.
    fn leave(&mut self, end: &Over) {
        if !self.upstream.has_closed && !self.client.has_closed {
            self.up(&Message::close(NORMAL, ""));
        }
        if !self.upstream.has_closed && !self.client.has_closed {
            let reason = end.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
            if let Some(error) = &end.error {
                self.tell_error(error, None);
            }
            Message::close(end.code, &reason).write(None, &mut self.client.out);
        }
    }

    /// What is under way is settled at what can have been used, what is not is given back.
    async fn settle_the_rest(&mut self) {
        self.holding = None;
        if let Some(want) = self.unheld.take() {
            Arc::clone(&self.whose).record_unheld(want).await;
        }
        for (hold, fate) in self.session.end() {
            let Some(held) = self.holds.remove(&hold) else { continue };
            match fate {
                Fate::Cut(probably) => held.cut(probably).await,
                Fate::Void => held.void(),
            }
        }
    }
}

async fn answered(holding: &mut Option<Holding>) -> (Want, Result<Held, Rejection>) {
    match holding {
        Some(holding) => holding.await,
        None => std::future::pending().await,
    }
}

async fn piece<R: AsyncRead + Unpin>(from: &mut R, input: &mut BytesMut) -> io::Result<usize> {
    input.reserve(PIECE_BYTES);
    from.read_buf(input).await
}

/// Writes some of it, or sees to it that what was written goes out.
async fn tell<W: AsyncWrite + Unpin>(to: &mut W, out: &[u8]) -> io::Result<usize> {
    match out {
        [] => to.flush().await.map(|()| 0),
        out => match to.write(out).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            bytes => Ok(bytes),
        },
    }
}
