//! Carries quota frames to the leader: one proposal for each frame.

use prost::Message;
use tokio::time::Instant;
use tollgate_consensus::{Consensus, ProposeError};
use tollgate_proto::state::v1::{Command, QuotaBatch, QuotaOutcome, command};
use tollgate_quota::{BoxFuture, Frame, FrameOutcome, Uplink, UplinkError, compact};

/// The way up over consensus.
pub(crate) struct LogUplink {
    consensus: Consensus,
}

impl LogUplink {
    pub(crate) fn new(consensus: Consensus) -> LogUplink {
        LogUplink { consensus }
    }
}

impl Uplink for LogUplink {
    fn propose(&self, mut frame: Frame, deadline: Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>> {
        compact::pack(&mut frame);
        let batch = QuotaBatch { frames: vec![frame] };
        let command = Command { kind: Some(command::Kind::Quota(batch)), ..Command::default() }.encode_to_vec();
        Box::pin(async move {
            // Sequence numbers make a repeated frame harmless, so it needs no request id.
            let committed = self.consensus.propose(None, command.into(), deadline.into_std()).await.map_err(failed)?;
            let outcome =
                QuotaOutcome::decode(committed.outcome).map_err(|error| UplinkError::Unknown(error.into()))?;
            outcome.frames.into_iter().next().ok_or_else(|| UplinkError::Unknown("the answer names no frame".into()))
        })
    }
}

fn failed(error: ProposeError) -> UplinkError {
    match error {
        ProposeError::Unknown(_) => UplinkError::Unknown(error.into()),
        ProposeError::NoLeader | ProposeError::Stopped => UplinkError::NotDone(error.into()),
        ProposeError::TooLarge { .. }
        | ProposeError::TooManyRequestIds(_)
        | ProposeError::RequestIdUsed
        | ProposeError::NotACommand(_)
        | ProposeError::DiskFull { .. } => UplinkError::Refused(error.into()),
    }
}
