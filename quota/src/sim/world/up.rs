//! The way up to the log, and the answers that come down.

use super::*;

impl World {
    pub(super) fn clock(&mut self, at: usize) -> Timestamp {
        let process = &mut self.processes[at];
        let own = (self.now + process.skew).max(process.replica.counters().last_time_us);
        process.clock = process.clock.max(own);
        process.agent.pass((self.now - process.began) * process.rate / 1_000);
        Timestamp(process.clock)
    }

    pub(super) fn tick(&mut self, at: usize) -> Checked {
        if !self.processes[at].alive {
            return Ok(());
        }
        self.queue.at(self.now + 4 * MS, Event::Tick { process: at });
        let now = self.clock(at);
        let process = &mut self.processes[at];
        if process.agent.is_waiting() && self.now >= process.retry_at {
            process.retry_at = self.now + 20 * MS;
            self.report.waited += 1;
            let answers = process.agent.retry(now);
            let drawn: Vec<u64> = process.waiting.keys().copied().collect();
            drawn.into_iter().for_each(|request| drop(self.labels(at, request)));
            self.told(at, answers, true)?;
        }
        let process = &mut self.processes[at];
        let (resend, cut) = (process.agent.is_sending(), process.cut);
        if cut && (resend || !process.waiting.is_empty()) {
            process.asked_since.get_or_insert(self.now);
        }
        if cut || (resend && (self.now < process.sent_at + 60 * MS || !self.may_send(at))) {
            return Ok(());
        }
        let process = &mut self.processes[at];
        let Some(frame) = process.agent.next_frame(now) else { return Ok(()) };
        if !self.may_send(at) {
            return Ok(());
        }
        let process = &mut self.processes[at];
        process.sent_at = self.now;
        process.asked_since.get_or_insert(self.now);
        self.send(at, Box::new(frame));
        self.check(at)
    }

    /// Throws the dice for a fault of the network.
    pub(super) fn strikes(&mut self, fault: Fault, percent: u64) -> bool {
        let dice = self.may_fail() && self.dice.percent(percent);
        self.fails(fault, dice)
    }

    fn send(&mut self, process: usize, frame: Box<Frame>) {
        let copies = if self.strikes(Fault::LostMessage, 8) {
            0
        } else {
            1 + u64::from(self.strikes(Fault::DuplicateMessage, 10))
        };
        self.tell(|it| format!("{} sends frame {}{}", it.named(process), frame.first_seq, story::copies(copies)));
        let mut frame = Some(frame);
        for copy in 0..copies {
            let late = if self.strikes(Fault::LateMessage, 3) { 2 * SECOND } else { 2 * MS };
            let delay = self.dice.range(200, late + 1) + copy * self.dice.range(0, SECOND);
            let sent = if copy + 1 < copies { frame.clone() } else { frame.take() };
            if let Some(frame) = sent {
                self.queue.at(self.now + delay, Event::Frame { process, frame });
            }
        }
    }

    pub(super) fn propose(&mut self, process: usize, frame: Frame) -> Checked {
        if self.leaderless {
            return Ok(());
        }
        let known = self.truth.node(frame.node).filter(|(incarnation, _)| *incarnation == frame.incarnation);
        let outcome = self.append(Command::Batch(QuotaBatch { frames: vec![frame] }))?.expect("a batch has an outcome");
        if !outcome.fenced && !outcome.unopened {
            self.processes[process].heard = self.now;
        }
        if let Some((_, last_seq)) = known {
            self.note_refusals(process, last_seq, &outcome);
        }
        if !self.strikes(Fault::LostMessage, 8) {
            let late = if self.strikes(Fault::LateMessage, 3) { 2 * SECOND } else { 5 * MS };
            let delay = self.dice.range(200, late);
            self.queue.at(self.now + delay, Event::Outcome { process, outcome: Box::new(outcome) });
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, at: usize, outcome: &FrameOutcome) -> Checked {
        let now = self.clock(at);
        let process = &mut self.processes[at];
        if !process.alive || process.cut {
            return Ok(());
        }
        process.asked_since = None;
        let answers = process.agent.applied(outcome, now);
        process.alive = !process.agent.is_fenced();
        self.told(at, answers, false)
    }
}
