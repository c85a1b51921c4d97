//! What the leader lets into the log: commands that `apply` knows. Quota frames of all nodes go together.

use bytes::Bytes;
use prost::Message;
use tollgate_consensus::{Gate, Passage};
use tollgate_proto::state::v1::{Command, QuotaBatch, QuotaOutcome, command};
use tollgate_quota::compact;

/// The gate before [`super::ReplicatedState`].
pub(super) struct CommandGate;

impl Gate for CommandGate {
    fn check(&self, node: u64, command: &[u8]) -> Result<Passage, String> {
        let decoded = Command::decode(command).map_err(|error| error.to_string())?;
        let kind = decoded.kind.ok_or("its kind is not known to the version that leads: upgrade the leader first")?;
        if let Some(other) = speakers(&kind).find(|other| *other != node) {
            return Err(format!("node {node} can't speak for node {other}: each node says itself what it uses"));
        }
        if let command::Kind::Quota(batch) = &kind
            && !batch.frames.iter().all(compact::is_whole)
        {
            return Err("a settlement names a caller that its frame does not have".to_owned());
        }
        Ok(match kind {
            command::Kind::Quota(batch) if decoded.asked.is_empty() => match &batch.frames[..] {
                [frame] => Passage::Shared { records: frame.records.len() },
                _ => Passage::Alone,
            },
            _ => Passage::Alone,
        })
    }

    fn join(&self, commands: &[Bytes]) -> Bytes {
        let frames = commands.iter().filter_map(|command| match Command::decode(command.clone()).ok()?.kind {
            Some(command::Kind::Quota(batch)) => Some(batch.frames),
            _ => None,
        });
        let batch = QuotaBatch { frames: frames.flatten().collect() };
        Command { kind: Some(command::Kind::Quota(batch)), ..Command::default() }.encode_to_vec().into()
    }

    fn split(&self, outcome: &Bytes, _commands: usize) -> Option<Vec<Bytes>> {
        let outcome = QuotaOutcome::decode(outcome.clone()).ok()?;
        let each = outcome.frames.into_iter().map(|frame| QuotaOutcome { frames: vec![frame] }.encode_to_vec().into());
        Some(each.collect())
    }
}

/// In whose name a command speaks of what is in the hands of a node.
fn speakers(kind: &command::Kind) -> impl Iterator<Item = u64> {
    let (frames, opened) = match kind {
        command::Kind::Quota(batch) => (&batch.frames[..], None),
        command::Kind::NodeOpen(open) => (&[][..], Some(open.node)),
        _ => (&[][..], None),
    };
    frames.iter().map(|frame| frame.node).chain(opened)
}

#[cfg(test)]
mod tests {
    use tollgate_proto::state::v1::{Attribution, ConfigChange, Frame, FrameOutcome, NodeOpen, Record, Settle, record};

    use super::*;

    fn frame(node: u64, records: usize) -> Frame {
        Frame { node, incarnation: 1, first_seq: 1, records: vec![Record::default(); records], ..Frame::default() }
    }

    fn command(kind: command::Kind) -> Bytes {
        Command { kind: Some(kind), ..Command::default() }.encode_to_vec().into()
    }

    fn batch(frames: Vec<Frame>) -> Bytes {
        command(command::Kind::Quota(QuotaBatch { frames }))
    }

    #[test]
    fn only_what_apply_knows_passes() {
        let unknown = CommandGate.check(1, &[0xfa, 0x07, 0x00]).unwrap_err();
        assert!(unknown.contains("not known to the version that leads"), "{unknown}");
        assert!(CommandGate.check(1, b"").is_err());
        assert!(CommandGate.check(1, b"\xff\xff\xff").is_err());
        let config = command(command::Kind::Config(ConfigChange::default()));
        assert_eq!(CommandGate.check(1, &config), Ok(Passage::Alone));
    }

    #[test]
    fn what_a_packed_frame_refers_to_is_in_it() {
        let settle = Settle { attributed: 1, request_uuid: vec![0; 16].into(), ..Settle::default() };
        let mut packed = Frame { records: vec![Record { kind: Some(record::Kind::Settle(settle)) }], ..frame(1, 0) };
        let refused = CommandGate.check(1, &batch(vec![packed.clone()])).unwrap_err();
        assert!(refused.contains("names a caller that its frame does not have"), "{refused}");
        packed.attributions.push(Attribution::default());
        assert_eq!(CommandGate.check(1, &batch(vec![packed])), Ok(Passage::Shared { records: 1 }));
    }

    #[test]
    fn a_node_speaks_for_itself_alone() {
        let open = |node| command(command::Kind::NodeOpen(NodeOpen { node, incarnation: 2, ..NodeOpen::default() }));
        let foreign = [batch(vec![frame(2, 1)]), batch(vec![frame(1, 1), frame(2, 1)]), open(2)];
        for command in &foreign {
            let refused = CommandGate.check(1, command).unwrap_err();
            assert!(refused.contains("node 1 can't speak for node 2"), "{refused}");
        }
        assert_eq!(CommandGate.check(1, &open(1)), Ok(Passage::Alone));
    }

    #[test]
    fn single_frames_share_an_entry_and_each_gets_its_outcome() {
        assert_eq!(CommandGate.check(1, &batch(vec![frame(1, 3)])), Ok(Passage::Shared { records: 3 }));
        assert_eq!(CommandGate.check(1, &batch(vec![])), Ok(Passage::Alone));
        assert_eq!(CommandGate.check(1, &batch(vec![frame(1, 1), frame(1, 1)])), Ok(Passage::Alone));
        let joined = CommandGate.join(&[batch(vec![frame(3, 2)]), batch(vec![frame(1, 0)])]);
        assert_eq!(joined, batch(vec![frame(3, 2), frame(1, 0)]));

        let outcome = |node| FrameOutcome { node, last_seq: 10 * node, ..FrameOutcome::default() };
        let all = QuotaOutcome { frames: vec![outcome(3), outcome(1)] }.encode_to_vec().into();
        let each = CommandGate.split(&all, 2).unwrap();
        let each: Vec<_> = each.into_iter().map(|one| QuotaOutcome::decode(one).unwrap().frames).collect();
        assert_eq!(each, [vec![outcome(3)], vec![outcome(1)]]);
        assert_eq!(CommandGate.split(&Bytes::from_static(b"\xff"), 2), None);
    }
}
