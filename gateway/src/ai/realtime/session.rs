//! A realtime session: which responses may begin, under which hold, and what each of them used. Pure.
//!
//! What always holds: an event that can begin a response goes upstream only once a response is held for it, each hold is of one
//! response at the most, and each is ended exactly once: settled by its response, or given back. Where the server finds the ends
//! of turns by itself, one response is held ahead before any sound goes upstream, and the next one as soon as that is taken.

use std::collections::VecDeque;

use super::{
    context::Context,
    events::{Bound, Bounds, Client, ClientKind, Facts, Reported, Response, Server, Update},
};

/// Responses of one session that are held and not over.
const MAX_RESPONSES: usize = 8;
/// Of input, beyond what there is: a minute of sound, and up to ten. Else each second of a turn would be held anew.
const HEADROOM: std::ops::RangeInclusive<u64> = 600..=6_000;
/// Updates of a session that its server has not answered.
const MAX_UPDATES: usize = 64;

/// Names a hold of this session.
pub(super) type HoldId = u64;

/// A response that has to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    /// The most that its input can be.
    pub(super) input: u64,
    /// What that probably is.
    pub(super) probably: u64,
    /// The most output that it may have.
    pub(super) output: u64,
    /// The server will begin it by itself.
    pub(super) is_ahead: bool,
}

/// What becomes of a client's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes upstream.
    Pass,
    /// It goes upstream, and begins a response under this hold.
    Begin(HoldId),
    /// Only once this is held: then ask again.
    Hold(Want),
    /// Only behind an update that bounds responses: then ask again.
    Cap(u64),
    /// Not before the server has said something.
    Wait,
    /// It goes nowhere.
    Refuse(String, Option<&'static str>),
}

/// What follows from a server's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// A response has begun under this hold.
    Began(HoldId),
    /// So much output of it has gone by, probably, and all of its input is this.
    Wrote(HoldId, Reported),
    /// It is over. Without figures of the server's, what they probably are.
    Done {
        hold: HoldId,
        told: Option<Reported>,
        probably: Reported,
        has_failed: bool,
    },
    /// Nothing will begin under it.
    Void(HoldId),
    /// A response has begun that nothing is held for. The session can't go on.
    Unheld(Want),
    /// It can't for this reason.
    Broken(&'static str),
}

/// How a hold ends with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its response was under way, or may have been.
    Cut(Reported),
    Void,
}

/// What a route says of bounds on output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) default: u64,
    pub(super) max: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    id: HoldId,
    input: u64,
    output: u64,
    probably: u64,
}

/// A response that was asked for and has not begun.
#[derive(Debug)]
struct Pending {
    slot: Slot,
    event: Option<String>,
}

#[derive(Debug)]
struct Active {
    slot: Slot,
    response: String,
    in_conversation: bool,
    output: u64,
}

/// An update that was sent and is not answered.
#[derive(Debug)]
struct Sent {
    event: Option<String>,
    /// It is ours, and bounds responses to so much.
    cap: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Session {
    policy: Policy,
    context: Context,
    /// None before the session was told of. Which of its two names a bound on output has.
    is_beta: Option<bool>,
    /// The bound on output that the server has once it has read all that was sent to it, if that is known to be one of ours.
    capped: Option<u64>,
    /// As the client wants it.
    asked: Option<u64>,
    updates: VecDeque<Sent>,
    /// The server may begin responses by itself once there is sound.
    begins_by_itself: bool,
    has_sound: bool,
    /// Held for the event that is looked at.
    spare: Option<Slot>,
    /// Held for what the server may begin.
    ahead: Option<Slot>,
    /// It has probably begun.
    is_due: bool,
    /// Nothing can be held ahead before a response is over.
    is_dry: bool,
    pending: VecDeque<Pending>,
    active: Vec<Active>,
}

impl Session {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            context: Context::default(),
            is_beta: None,
            capped: None,
            asked: None,
            updates: VecDeque::new(),
            begins_by_itself: true,
            has_sound: false,
            spare: None,
            ahead: None,
            is_due: false,
            is_dry: false,
            pending: VecDeque::new(),
            active: Vec::new(),
        }
    }

    /// Whether bounds have the names of the beta.
    pub(super) fn is_beta(&self) -> bool {
        self.is_beta == Some(true)
    }

    /// What becomes of an event of so many bytes. Asked again with the same event after [`Step::Hold`], [`Step::Cap`] and
    /// [`Step::Wait`].
    pub(super) fn client(&mut self, event: &Client, bytes: u64) -> Step {
        match event.kind {
            ClientKind::Create { bound } => self.create(event, bound, bytes),
            ClientKind::Append { bytes: sound } => self.append(sound),
            ClientKind::Update(update) => self.update(event, update, bytes),
            ClientKind::Other if self.may_begin() && !self.covers(bytes, 0) => self.hold_ahead(bytes, 0),
            ClientKind::Other => {
                self.context.add_text(bytes);
                Step::Pass
            }
        }
    }

    fn create(&mut self, event: &Client, bound: Bounds, bytes: u64) -> Step {
        let Some(bound) = self.named(bound) else { return Step::Wait };
        if let Some(slot) = self.spare.take() {
            self.context.add_text(bytes);
            self.pending.push_back(Pending { slot, event: event.id.clone() });
            return Step::Begin(slot.id);
        }
        if self.pending.len() + self.active.len() >= MAX_RESPONSES {
            return Step::Refuse(format!("There are {MAX_RESPONSES} responses under way: let one of them end."), None);
        }
        let output = match (bound, self.capped) {
            (Some(Bound::Tokens(tokens)), _) if tokens <= self.policy.max => tokens,
            (Some(_), _) => {
                let message = format!("A response may have {} output tokens at most.", self.policy.max);
                return Step::Refuse(message, Some("response.max_output_tokens"));
            }
            (None, Some(capped)) => capped,
            (None, None) => return Step::Cap(self.cap()),
        };
        let want = Want { is_ahead: false, ..self.want(output, bytes) };
        // A turn that ends after it reads what it says, too.
        let longer = bytes.saturating_add(want.output);
        if self.may_begin() && !self.covers(longer, 0) { self.hold_ahead(longer, 0) } else { Step::Hold(want) }
    }

    fn append(&mut self, sound: u64) -> Step {
        if self.begins_by_itself && (self.capped.is_none() || !self.covers(0, sound)) {
            return self.hold_ahead(0, sound);
        }
        self.has_sound = true;
        self.context.add_sound(sound);
        Step::Pass
    }

    /// Whether the server may begin a response at any time.
    fn may_begin(&self) -> bool {
        self.begins_by_itself && self.has_sound
    }

    /// Whether what is held ahead is enough for a turn with so many bytes of text and of sound more.
    fn covers(&self, text: u64, sound: u64) -> bool {
        self.ahead.is_some_and(|slot| slot.input >= self.input(text, sound).0)
    }

    /// Of the next response: with all that those under way may add to the conversation.
    fn input(&self, text: u64, sound: u64) -> (u64, u64) {
        let (most, probably) = self.context.with(text, sound);
        let asked = self.pending.iter().map(|pending| pending.slot.output);
        let coming = self.active.iter().filter(|active| active.in_conversation).map(|active| active.slot.output);
        (asked.chain(coming).fold(most, u64::saturating_add), probably)
    }

    fn hold_ahead(&self, text: u64, sound: u64) -> Step {
        match (self.is_beta, self.capped) {
            (None, _) => Step::Wait,
            // What a response gives back may do.
            _ if self.is_dry && self.is_under_way() => Step::Wait,
            (_, None) => Step::Cap(self.cap()),
            (_, Some(capped)) => Step::Hold(self.want_ahead(capped, text, sound)),
        }
    }

    fn update(&mut self, event: &Client, update: Update, bytes: u64) -> Step {
        let Some(bound) = self.named(update.bound) else { return Step::Wait };
        if self.updates.len() >= MAX_UPDATES {
            return Step::Refuse("There are too many updates that the server has not answered.".to_owned(), None);
        }
        // What lies in the server's buffer may be the end of a turn then.
        let may_begin = self.begins_by_itself || update.begins_by_itself;
        if may_begin && self.has_sound && !self.covers(bytes, 0) {
            return self.hold_ahead(bytes, 0);
        }
        if let Some(bound) = bound {
            let asked = match bound {
                Bound::Tokens(tokens) => Some(tokens),
                Bound::Model => None,
            };
            // What was said before may begin a response at any time, under what is held for it.
            let most = self.ahead.map(|slot| slot.output).or(self.capped).filter(|_| self.has_sound);
            if let Some(most) = most.filter(|most| may_begin && asked.is_none_or(|asked| asked > *most)) {
                let message = format!("Once there is sound, this may be {most} at most: it is held for what is said.");
                return Step::Refuse(message, Some("session.max_output_tokens"));
            }
            self.asked = asked;
            self.capped = None; // it is said once more before a response may begin
        }
        self.begins_by_itself |= update.begins_by_itself;
        if update.changes_format {
            self.context.forget_format();
        }
        self.context.add_text(bytes);
        self.updates.push_back(Sent { event: event.id.clone(), cap: None });
        Step::Pass
    }

    /// The bound by the name that this session's version has. None before that is known.
    fn named(&self, bounds: Bounds) -> Option<Option<Bound>> {
        self.is_beta.map(|is_beta| if is_beta { bounds.beta } else { bounds.current })
    }

    fn cap(&self) -> u64 {
        self.asked.unwrap_or(self.policy.default).min(self.policy.max).max(1)
    }

    /// An update with this bound goes upstream, under this name.
    pub(super) fn cap_sent(&mut self, cap: u64, event: String) {
        self.capped = Some(cap);
        self.updates.push_back(Sent { event: Some(event), cap: Some(cap) });
    }

    fn want(&self, output: u64, bytes: u64) -> Want {
        let (input, probably) = self.input(bytes, 0);
        // Of two that begin at once nobody can tell which is whose.
        let output = if self.begins_by_itself { output.max(self.capped.unwrap_or(output)) } else { output };
        Want { input, probably, output, is_ahead: true }
    }

    fn want_ahead(&self, capped: u64, text: u64, sound: u64) -> Want {
        let (most, probably) = self.input(text, sound);
        let headroom = (most / 2).clamp(*HEADROOM.start(), *HEADROOM.end());
        Want { input: most.saturating_add(headroom), probably, output: capped, is_ahead: true }
    }

    fn is_under_way(&self) -> bool {
        !self.active.is_empty() || !self.pending.is_empty()
    }

    /// What has to be held though no event waits for it.
    pub(super) fn wanted(&self) -> Option<Want> {
        let is_one = self.may_begin() && !self.covers(0, 0) && !self.is_dry;
        self.capped.filter(|_| is_one).map(|capped| self.want_ahead(capped, 0, 0))
    }

    /// What was wanted is held. A smaller hold that was for the same is given back.
    pub(super) fn held(&mut self, id: HoldId, want: Want) -> Option<HoldId> {
        let slot = Slot { id, input: want.input, output: want.output, probably: want.probably };
        let place = if want.is_ahead { &mut self.ahead } else { &mut self.spare };
        place.replace(slot).map(|smaller| smaller.id)
    }

    /// What is held ahead though nothing will begin by itself any more. Not while an event waits, for which it may be.
    pub(super) fn unneeded(&mut self) -> Option<HoldId> {
        let is_needed = self.begins_by_itself || self.is_due || !self.updates.is_empty();
        if is_needed { None } else { self.ahead.take().map(|slot| slot.id) }
    }

    /// It can't be. Whether the session has to end, as nothing can change that.
    pub(super) fn refused(&mut self, want: Want) -> bool {
        self.is_dry |= want.is_ahead;
        want.is_ahead && !self.is_under_way()
    }

    /// Takes a server's event of so many bytes.
    pub(super) fn server(&mut self, event: &Server, bytes: u64) -> Effect {
        match event {
            Server::Session { is_update, facts } => self.told(*is_update, *facts, bytes),
            Server::Began(response) => self.began(response),
            Server::Done(response) => self.done(response),
            Server::Wrote { response, text_bytes, audio_bytes } => {
                let more = self.context.output(*text_bytes, *audio_bytes);
                let Some(active) = self.active.iter_mut().find(|it| it.response == *response) else {
                    return Effect::Nothing;
                };
                active.output = active.output.saturating_add(more).min(active.slot.output);
                Effect::Wrote(active.slot.id, active.so_far())
            }
            Server::Added => {
                self.context.add_text(bytes);
                Effect::Nothing
            }
            Server::TurnEnded => {
                self.is_due = self.begins_by_itself;
                self.context.committed();
                Effect::Nothing
            }
            Server::Error { event, is_busy } => self.failed(event.as_deref(), *is_busy),
            Server::Other => Effect::Nothing,
        }
    }

    fn told(&mut self, is_update: bool, facts: Facts, bytes: u64) -> Effect {
        if facts.begins_unasked {
            return Effect::Broken("The provider begins responses though nobody speaks: that is not supported.");
        }
        self.context.add_text(bytes);
        let is_beta = *self.is_beta.get_or_insert(facts.bound.current.is_none() && facts.bound.beta.is_some());
        let answered = if is_update { self.updates.pop_front() } else { None };
        if !self.updates.is_empty() {
            return Effect::Nothing; // it will change once more
        }
        self.begins_by_itself = facts.begins_by_itself;
        if facts.is_pcm16 {
            self.context.is_pcm16();
        }
        self.capped = match if is_beta { facts.bound.beta } else { facts.bound.current } {
            Some(Bound::Tokens(tokens)) if tokens <= self.policy.max => Some(tokens),
            _ if answered.is_some_and(|sent| sent.cap.is_some()) => {
                return Effect::Broken("The provider does not bound its responses as it was asked to.");
            }
            _ => None,
        };
        // A turn that has ended before may still be answered.
        let unneeded = if self.begins_by_itself || self.is_due { None } else { self.ahead.take() };
        unneeded.map_or(Effect::Nothing, |slot| Effect::Void(slot.id))
    }

    /// Finds the hold of a response that begins.
    fn claim(&mut self, response: &Response) -> Option<Slot> {
        let enough = |slot: &Slot| response.bound.is_none_or(|bound| slot.output >= bound);
        let asked = self.pending.iter().position(|pending| enough(&pending.slot));
        let is_ahead = self.ahead.as_ref().is_some_and(enough);
        match asked {
            Some(at) => self.pending.remove(at).map(|pending| pending.slot),
            None if is_ahead => {
                self.is_due = false;
                self.ahead.take()
            }
            // A longer one than anything is held for.
            None => None,
        }
    }

    fn begin(&mut self, response: &Response) -> Option<usize> {
        let slot = self.claim(response)?;
        if response.in_conversation {
            self.context.began();
        }
        let (response, in_conversation) = (response.id.clone(), response.in_conversation);
        self.active.push(Active { slot, response, in_conversation, output: 0 });
        Some(self.active.len() - 1)
    }

    fn began(&mut self, response: &Response) -> Effect {
        if self.active.iter().any(|it| it.response == response.id) {
            return Effect::Nothing;
        }
        match self.begin(response) {
            Some(at) => Effect::Began(self.active[at].slot.id),
            None => self.unheld(),
        }
    }

    fn unheld(&self) -> Effect {
        Effect::Unheld(self.want(self.capped.unwrap_or(self.cap()), 0))
    }

    fn done(&mut self, response: &Response) -> Effect {
        let at = self.active.iter().position(|it| it.response == response.id);
        let Some(at) = at.or_else(|| self.begin(response)) else { return self.unheld() };
        let active = self.active.swap_remove(at);
        self.is_dry = false;
        let used = response.usage.unwrap_or(active.so_far());
        self.context.ended(
            used.input,
            used.output,
            active.in_conversation && response.usage.is_some() && self.active.is_empty(),
        );
        let (told, probably, has_failed) = (response.usage, active.so_far(), response.has_failed);
        Effect::Done { hold: active.slot.id, told, probably, has_failed }
    }

    fn failed(&mut self, event: Option<&str>, is_busy: bool) -> Effect {
        let named = |it: &Option<String>| event.is_some() && it.as_deref() == event;
        if let Some(at) = self.updates.iter().position(|sent| named(&sent.event)) {
            let sent = self.updates.remove(at);
            if sent.is_some_and(|sent| sent.cap.is_some()) {
                return Effect::Broken("The provider does not bound its responses as it was asked to.");
            }
            return Effect::Nothing;
        }
        let at = self.pending.iter().position(|pending| named(&pending.event));
        // Requests are answered in their order, so it is the first that has no name.
        let unnamed = || self.pending.iter().position(|pending| pending.event.is_none());
        let at = at.or_else(|| if is_busy && event.is_none() { unnamed() } else { None });
        let refused = at.and_then(|at| self.pending.remove(at));
        refused.map_or(Effect::Nothing, |pending| Effect::Void(pending.slot.id))
    }

    /// What becomes of every hold that is left.
    pub(super) fn end(&mut self) -> Vec<(HoldId, Fate)> {
        let active = self.active.drain(..).map(|it| (it.slot.id, Fate::Cut(it.so_far())));
        let cut = |slot: Slot| (slot.id, Fate::Cut(Reported { input: slot.probably, ..Reported::default() }));
        let pending = self.pending.drain(..).map(|it| cut(it.slot));
        let is_due = self.is_due;
        let ahead = self.ahead.take().map(|slot| if is_due { cut(slot) } else { (slot.id, Fate::Void) });
        let spare = self.spare.take().map(|slot| (slot.id, Fate::Void));
        active.chain(pending).chain(ahead).chain(spare).collect()
    }
}

impl Active {
    fn so_far(&self) -> Reported {
        Reported { input: self.slot.probably, output: self.output, ..Reported::default() }
    }
}

#[cfg(test)]
mod tests;
