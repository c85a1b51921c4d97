//! What the log refuses, beside what was really admitted by then. (`oracle.rs` has the counter that goes its own way.)

use super::*;
use crate::sim::witness::Place;

/// Who comes while there is room for it is admitted by then (I7, `T_adm`).
const ADMITTED_WITHIN: u64 = 50 * MS;

impl World {
    /// Counts what the log has just refused for lack of room, though one who knew all that was admitted, and nothing else,
    /// would have found some in every account. Records up to `last_seq` were answered before.
    pub(super) fn note_refusals(&mut self, process: usize, last_seq: u64, outcome: &FrameOutcome) {
        let Some(Entry { command: Command::Batch(batch), .. }) = self.log.last() else { return };
        let numbered = batch.frames[0].records.iter().zip(batch.frames[0].first_seq..);
        let holds: Vec<(&Hold, bool)> = numbered
            .filter_map(|(record, seq)| match &record.kind {
                Some(Kind::Hold(hold)) => Some((hold, seq > last_seq)),
                _ => None,
            })
            .collect();
        let (mut wrongly, mut late) = (0, 0);
        for (at, said) in outcome.holds.iter().enumerate() {
            let (hold, new) = holds[at];
            if new && !said.granted && said.refusal() == Refusal::Exhausted {
                let later = &holds[at + 1..];
                let had_room = |since| hold.charges.iter().all(|charge| self.has_room(process, later, charge, since));
                wrongly += u64::from(had_room(self.now));
                late += u64::from(had_room(self.now.saturating_sub(ADMITTED_WITHIN)));
            }
        }
        self.report.refused_beside_room += wrongly;
        self.report.refused_beside_old_room += late;
    }

    /// What is drawn by requests that were granted and did not go out yet: they wait for the disk, or for the log's word.
    fn outgoing(&self, place: &Place) -> u64 {
        let granted = |it: &Process, request: u64| {
            it.outgoing.contains_key(&request) || self.promised.contains_key(&(it.node, it.incarnation, request))
        };
        let mut sum = 0;
        for (at, it) in self.processes.iter().enumerate().filter(|(_, it)| it.alive) {
            let requests = it.waiting.keys().filter(|request| granted(it, **request));
            let labels = requests.flat_map(|request| self.drawn(at, *request));
            let here = labels.filter(|(account, epoch, _)| self.witness.place(*account, *epoch) == Some(place));
            sum += here.map(|(.., amount)| amount).sum::<u64>();
        }
        sum
    }

    /// Whether a charge would have fitted into its account ever since, beside all that was granted: sent out, or about to be;
    /// without what `later` holds of the same frame were granted.
    fn has_room(&self, process: usize, later: &[(&Hold, bool)], charge: &wire::Charge, since: u64) -> bool {
        let Process { node, incarnation, .. } = self.processes[process];
        let Some(view) = self.truth.lease_of(0, 0, &charge.limit, &charge.key) else { return true };
        let account = self.common(view.account, view.epoch);
        let Some(place) = self.witness.place(account, view.epoch) else { return charge.amount <= view.capacity };
        let counts = match &*place.0 {
            PERMITS => self.in_use(place),
            PURSE => self.served.unbilled(),
            FLIPS => self.flips.counts(place, self.now),
            _ => self.witness.counts(place, self.now),
        };
        let is_later = |name: &(u64, u64, u64)| {
            (name.0, name.1) == (node, incarnation) && later.iter().any(|(hold, _)| hold.request == name.2)
        };
        let promised = self.promised.iter().filter(|(name, _)| !is_later(name)).flat_map(|(_, labels)| labels);
        let promised = promised.filter(|(account, epoch, _)| self.witness.place(*account, *epoch) == Some(place));
        let promised: u64 = promised.map(|(.., amount)| amount).sum();
        let promised = promised + self.outgoing(place);
        let freed = self.witness.freed_since(place, since);
        counts + promised + freed + charge.amount <= view.capacity
    }
}
