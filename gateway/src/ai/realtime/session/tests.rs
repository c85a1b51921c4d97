use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy { default: 50, max: 100 };

/// What happens next in a session that chance drives.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Create(Option<u64>),
    Append,
    Update {
        turns_on: bool,
        bound: Option<u64>,
    },
    /// The server begins what was asked for, or what it has heard.
    Begin,
    Write,
    End {
        tells: bool,
    },
    /// The server refuses what was asked for.
    Refuse,
    /// What limits hold changes.
    Limits(bool),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => proptest::option::of(1_u64..150).prop_map(Turn::Create),
        3 => Just(Turn::Append),
        1 => any::<(bool, Option<u8>)>()
            .prop_map(|(turns_on, bound)| Turn::Update { turns_on, bound: bound.map(|it| u64::from(it) + 1) }),
        4 => Just(Turn::Begin),
        1 => Just(Turn::Write),
        4 => any::<bool>().prop_map(|tells| Turn::End { tells }),
        1 => Just(Turn::Refuse),
        1 => any::<bool>().prop_map(Turn::Limits),
    ]
}

/// A provider that does what the API says, limits, and whoever keeps the books.
struct World {
    session: Session,
    limits_hold: bool,
    holds: u64,
    /// Held and not ended, with the most input and output of each.
    open: BTreeMap<HoldId, (u64, u64)>,
    /// Tokens of sound since the server last began a response by itself.
    fresh: u64,
    /// Under which a response has begun.
    begun: BTreeSet<HoldId>,
    turns_on: bool,
    cap: Option<u64>,
    /// Bounds of responses that the provider was asked for.
    asked: VecDeque<u64>,
    /// Sound that the provider has heard since it last began a response by itself.
    heard: bool,
    /// Begun by the provider.
    running: Vec<String>,
    names: u64,
    over: bool,
}

fn facts(begins_by_itself: bool, bound: Bound) -> Facts {
    let bound = Bounds { current: Some(bound), beta: None };
    Facts { bound, begins_by_itself, begins_unasked: false, is_pcm16: true }
}

impl World {
    fn new(turns_on: bool) -> Self {
        let mut session = Session::new(POLICY);
        let created = Server::Session { is_update: false, facts: facts(turns_on, Bound::Model) };
        assert_eq!(session.server(&created, 10), Effect::Nothing);
        Self {
            session,
            limits_hold: true,
            holds: 0,
            open: BTreeMap::new(),
            fresh: 0,
            begun: BTreeSet::new(),
            turns_on,
            cap: None,
            asked: VecDeque::new(),
            heard: false,
            running: Vec::new(),
            names: 0,
            over: false,
        }
    }

    /// As the shell does it; whether it went upstream.
    fn send(&mut self, kind: ClientKind) -> bool {
        let event = Client { id: None, kind };
        for _ in 0..5 {
            match self.session.client(&event, 30) {
                Step::Pass => return true,
                Step::Begin(hold) => {
                    assert!(self.open.contains_key(&hold) && !self.begun.contains(&hold));
                    return true;
                }
                Step::Cap(cap) => {
                    assert!(cap <= POLICY.max);
                    self.session.cap_sent(cap, "cap".to_owned());
                    self.cap = Some(cap);
                    self.updated();
                }
                Step::Hold(want) if self.limits_hold => self.hold(want),
                Step::Hold(want) => {
                    self.over |= self.session.refused(want);
                    if self.over || !want.is_ahead {
                        return false;
                    }
                }
                Step::Wait | Step::Refuse(..) => return false,
            }
        }
        panic!("it never comes to an end: {event:?}");
    }

    fn hold(&mut self, want: Want) {
        self.holds += 1;
        self.open.insert(self.holds, (want.input, want.output));
        if let Some(smaller) = self.session.held(self.holds, want) {
            assert!(want.is_ahead && self.open[&smaller].0 < want.input && !self.begun.contains(&smaller));
            self.ended(smaller);
        }
    }

    fn updated(&mut self) {
        let facts = facts(self.turns_on, self.cap.map_or(Bound::Model, Bound::Tokens));
        match self.session.server(&Server::Session { is_update: true, facts }, 10) {
            Effect::Nothing => {}
            Effect::Void(hold) if !self.turns_on && !self.begun.contains(&hold) => self.ended(hold),
            effect => panic!("{effect:?}"),
        }
    }

    fn begin(&mut self) {
        // What was asked for before does not read what is being said.
        let (bound, said) = match self.asked.pop_front() {
            Some(bound) => (bound, 0),
            None if self.turns_on && self.heard => {
                self.heard = false;
                assert_eq!(self.session.server(&Server::TurnEnded, 10), Effect::Nothing);
                (self.cap.expect("what begins by itself is bounded before"), std::mem::take(&mut self.fresh))
            }
            None => return,
        };
        self.names += 1;
        let response = Response { in_conversation: true, bound: Some(bound), ..self.response(self.names) };
        let Effect::Began(hold) = self.session.server(&Server::Began(response.clone()), 10) else {
            panic!("not held: {:?}", self.session);
        };
        let (input, output) = self.open[&hold];
        assert!(output >= bound, "more than is held");
        assert!(input >= said, "more was said than is held");
        assert!(self.begun.insert(hold), "two responses under one hold");
        self.running.push(response.id);
    }

    fn response(&self, name: u64) -> Response {
        Response { id: format!("r{name}"), ..Response::default() }
    }

    fn ended(&mut self, hold: HoldId) {
        assert!(self.open.remove(&hold).is_some(), "ended twice, or never held: {hold}");
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Create(max) => {
                let bound = Bounds { current: max.map(Bound::Tokens), beta: None };
                if self.send(ClientKind::Create { bound }) {
                    self.asked.push_back(max.or(self.cap).expect("bounded before"));
                }
            }
            Turn::Append => {
                if self.send(ClientKind::Append { bytes: 960_000 }) {
                    self.heard = true;
                    self.fresh += 200;
                }
            }
            Turn::Update { turns_on, bound } => {
                let told = Bounds { current: bound.map(Bound::Tokens), beta: None };
                let update = Update { begins_by_itself: turns_on, bound: told, changes_format: false };
                if self.send(ClientKind::Update(update)) {
                    (self.turns_on, self.cap) = (turns_on, bound.or(self.cap));
                    self.updated();
                }
            }
            Turn::Begin => self.begin(),
            Turn::Write => {
                let response = self.running.first().cloned().unwrap_or_default();
                self.session.server(&Server::Wrote { response, text_bytes: 9, audio_bytes: 0 }, 10);
            }
            Turn::End { tells } => {
                let Some(id) = self.running.pop() else { return };
                let usage = tells.then_some(Reported { input: 3, cached_input: 1, output: 2, ..Reported::default() });
                let effect = self.session.server(&Server::Done(Response { id, usage, ..Response::default() }), 10);
                let Effect::Done { hold, told, .. } = effect else { panic!("{effect:?}") };
                assert_eq!(told, usage);
                assert!(self.begun.contains(&hold));
                self.ended(hold);
            }
            Turn::Refuse => {
                if self.asked.pop_front().is_some() {
                    let effect = self.session.server(&Server::Error { event: None, is_busy: true }, 10);
                    let Effect::Void(hold) = effect else { panic!("{effect:?}") };
                    assert!(!self.begun.contains(&hold));
                    self.ended(hold);
                }
            }
            Turn::Limits(hold) => self.limits_hold = hold,
        }
        if let Some(unneeded) = self.session.unneeded() {
            assert!(!self.turns_on && !self.begun.contains(&unneeded));
            self.ended(unneeded);
        }
        if let Some(want) = self.session.wanted() {
            assert!(want.is_ahead);
            if self.limits_hold { self.hold(want) } else { self.over |= self.session.refused(want) }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_response_begins_that_is_not_held_and_each_hold_is_ended_once(
        turns_on: bool,
        turns in proptest::collection::vec(turn(), 0..60),
    ) {
        let mut world = World::new(turns_on);
        for turn in turns {
            world.turn(turn);
            if world.over {
                break;
            }
        }
        let running = world.running.len();
        let left = world.session.end();
        let cut = left.iter().filter(|(_, fate)| matches!(fate, Fate::Cut(_))).count();
        prop_assert!(cut >= running, "what runs is not given back: {left:?}");
        for (hold, fate) in left {
            prop_assert!(fate != Fate::Void || !world.begun.contains(&hold));
            world.ended(hold);
        }
        prop_assert!(world.open.is_empty(), "left behind: {:?}", world.open);
        prop_assert!(world.session.end().is_empty());
    }
}

fn ready() -> Session {
    World::new(true).session
}

fn client(kind: ClientKind) -> Client {
    Client { id: None, kind }
}

const SOUND: ClientKind = ClientKind::Append { bytes: 4_800 };

#[test]
fn before_the_session_is_told_of_nothing_begins() {
    let mut session = Session::new(POLICY);
    assert_eq!(session.client(&client(SOUND), 1), Step::Wait);
    assert_eq!(session.client(&client(ClientKind::Create { bound: Bounds::default() }), 1), Step::Wait);
    assert_eq!(session.client(&client(ClientKind::Other), 1), Step::Pass);
}

#[test]
fn sound_goes_on_only_while_a_response_is_held_ahead() {
    let mut session = ready();
    assert_eq!(session.client(&client(SOUND), 1), Step::Cap(50));
    session.cap_sent(50, "cap".to_owned());
    let Step::Hold(want) = session.client(&client(SOUND), 1) else { panic!("{session:?}") };
    assert!(want.is_ahead && want.output == 50);
    session.held(1, want);
    assert_eq!((session.client(&client(SOUND), 1), session.client(&client(SOUND), 1)), (Step::Pass, Step::Pass));
    assert_eq!(session.wanted(), None);
    let first = Response { id: "r1".to_owned(), in_conversation: true, ..Response::default() };
    assert_eq!(session.server(&Server::Began(first.clone()), 1), Effect::Began(1));
    // The next one is asked for at once; refused, nothing goes on until the first has given back what it does not use.
    let next = session.wanted().unwrap();
    assert!(!session.refused(next));
    assert_eq!((session.wanted(), session.client(&client(SOUND), 1)), (None, Step::Wait));
    assert!(matches!(session.server(&Server::Done(first), 1), Effect::Done { hold: 1, .. }));
    let next = session.wanted().unwrap();
    assert!(session.refused(next), "nothing will change that");
}

#[test]
fn whoever_begins_what_is_not_held_is_left() {
    let mut session = ready();
    let one = Response { id: "r1".to_owned(), ..Response::default() };
    assert!(matches!(session.server(&Server::Began(one.clone()), 1), Effect::Unheld(_)));
    assert!(matches!(session.server(&Server::Done(one), 1), Effect::Unheld(_)));
}

#[test]
fn a_bound_above_the_routes_is_refused_and_one_that_is_not_taken_ends_the_session() {
    let mut session = ready();
    for bound in [Bound::Tokens(101), Bound::Model] {
        let create = ClientKind::Create { bound: Bounds { current: Some(bound), beta: None } };
        let Step::Refuse(message, Some(_)) = session.client(&client(create), 1) else { panic!("{bound:?}") };
        assert!(message.contains("100"), "{message}");
    }
    session.cap_sent(50, "cap".to_owned());
    let facts = facts(true, Bound::Model);
    assert!(matches!(session.server(&Server::Session { is_update: true, facts }, 1), Effect::Broken(_)));
    let mut session = ready();
    session.cap_sent(50, "cap".to_owned());
    let error = Server::Error { event: Some("cap".to_owned()), is_busy: false };
    assert!(matches!(session.server(&error, 1), Effect::Broken(_)));
}

#[test]
fn a_turn_that_has_ended_may_have_begun_a_response() {
    let mut session = ready();
    session.cap_sent(50, "cap".to_owned());
    let Step::Hold(want) = session.client(&client(SOUND), 1) else { panic!("{session:?}") };
    session.held(7, want);
    assert_eq!(session.client(&client(SOUND), 1), Step::Pass);
    session.server(&Server::TurnEnded, 1);
    assert!(matches!(session.end()[..], [(7, Fate::Cut(_))]));
}
