//! What happened, one line each, for whoever has to find out why.

use std::fmt::Write;

use super::*;
use crate::sim::STORY;

impl World {
    /// Adds a line to the story, if there is one.
    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_none() {
            return;
        }
        let since = self.now - START;
        let line = format!("{:>3}.{:06} s  {}", since / SECOND, since % SECOND, line(self));
        if let Some(story) = &mut self.story {
            if story.len() == STORY {
                story.pop_front();
            }
            story.push_back(line);
        }
    }

    pub(super) fn named(&self, process: usize) -> String {
        format!("node {}/{}", self.processes[process].node, self.processes[process].incarnation)
    }

    pub(super) fn sent_out(&self, at: usize, request: u64, labels: &[Label], drawn: usize) -> String {
        let mut line = format!("{} admits request {request}:", self.named(at));
        for (nth, (account, epoch, amount)) in labels.iter().enumerate() {
            let (verb, join) = (if nth < drawn { "draws" } else { "the log holds" }, if nth > 0 { "," } else { "" });
            let place =
                self.witness.place(*account, *epoch).map_or_else(String::new, |(limit, key, _)| path(limit, key));
            // Writing to a string can't fail.
            let _ = write!(line, "{join} {verb} {amount} of {place}");
        }
        line
    }
}

fn path(limit: &str, key: &str) -> String {
    if key.is_empty() { limit.to_owned() } else { format!("{limit}/{key}") }
}

pub(super) fn asked(charges: &[Charge]) -> String {
    let one = |charge: &Charge| format!("{} of {}", charge.amount, path(&charge.limit, &charge.key.concat()));
    charges.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(super) fn copies(copies: u64) -> &'static str {
    match copies {
        0 => ", which is lost",
        1 => "",
        _ => ", which arrives twice",
    }
}

pub(super) fn entry(command: &Command, outcome: Option<&FrameOutcome>) -> String {
    match command {
        Command::Batch(batch) => frame(&batch.frames[0], outcome),
        Command::Open(open) => format!("node {}/{} is opened", open.node, open.incarnation),
        Command::Lose(lost) => format!("node {}/{} is given up: {:?}", lost.node, lost.incarnation, lost.write_off()),
        Command::Set(rule) => format!("limit {} is {}, {:?}", rule.limit, rule.capacity, rule.algorithm),
        Command::Remove(limit) => format!("limit {limit} is deleted"),
        Command::Move(homes, key) => format!("{key} moves: {homes:?}"),
        Command::Grant(amount) => format!("{amount} is paid in"),
        Command::TakeOff(amount) => format!("{amount} is to be taken off what was paid in"),
    }
}

fn frame(frame: &Frame, outcome: Option<&FrameOutcome>) -> String {
    let mut line = format!("frame {} of node {}/{}:", frame.first_seq, frame.node, frame.incarnation);
    if outcome.is_some_and(|outcome| outcome.fenced) {
        line.push_str(" fenced:");
    }
    for record in &frame.records {
        line.push(' ');
        line.push_str(&said(record.kind.as_ref(), outcome));
    }
    line
}

fn said(kind: Option<&Kind>, outcome: Option<&FrameOutcome>) -> String {
    match kind {
        Some(Kind::Hold(hold)) => {
            let answer = outcome.and_then(|outcome| outcome.holds.iter().find(|it| it.request == hold.request));
            let word = answer.map_or_else(
                || "unanswered".to_owned(),
                |it| if it.granted { "granted".to_owned() } else { format!("{:?}", it.refusal()) },
            );
            format!("hold({} {word})", hold.request)
        }
        Some(Kind::Recover(it)) => {
            let (ends, leases) = (it.settles.len(), it.consumed.len() + it.named.len());
            format!("recover({} {ends} ends {leases} leases{})", it.incarnation, if it.done { " done" } else { "" })
        }
        Some(Kind::Settle(settle)) => format!("settle({})", settle.request),
        Some(Kind::Report(it)) => {
            format!("report(account {} held {} spent {} returned {})", it.account, it.held, it.spent, it.returned)
        }
        Some(Kind::Touch(it)) => {
            let (name, said) = (path(&it.limit, &it.key.concat()), it.report.unwrap_or_default());
            format!("touch({name} held {} spent {} returned {})", said.held, said.spent, said.returned)
        }
        Some(Kind::Knows(it)) => format!("knows({} since {})", it.limit, it.version),
        Some(Kind::Present(it)) => format!("present({} at {})", it.count, it.seat),
        Some(Kind::Want(want)) => format!("want({} of {})", want.target, path(&want.limit, &want.key.concat())),
        None => String::new(),
    }
}
