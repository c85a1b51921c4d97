//! A copy of what goes by of a body, for whoever wants it once it is whole.

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

/// A body as it is kept.
#[derive(Debug)]
pub(crate) enum Kept {
    Whole(Bytes),
    /// All of it, once it has come; none once it is too long. Closed when it never comes to its end.
    Coming(oneshot::Receiver<Option<Bytes>>),
}

/// Keeps a body up to a bound.
#[derive(Debug)]
pub(super) struct Keeper {
    kept: BytesMut,
    most: usize,
    /// Gone once it was told.
    wanted: Option<oneshot::Sender<Option<Bytes>>>,
}

impl Keeper {
    pub(super) fn new(most: usize) -> (Self, oneshot::Receiver<Option<Bytes>>) {
        let (wanted, coming) = oneshot::channel();
        (Self { kept: BytesMut::new(), most, wanted: Some(wanted) }, coming)
    }

    pub(super) fn goes_by(&mut self, data: &Bytes) {
        if self.wanted.as_ref().is_none_or(oneshot::Sender::is_closed) {
            self.kept = BytesMut::new();
            return;
        }
        if self.kept.len() + data.len() > self.most {
            self.kept = BytesMut::new();
            self.tell(None);
            return;
        }
        self.kept.extend_from_slice(data);
    }

    pub(super) fn ended(&mut self) {
        let kept = std::mem::take(&mut self.kept).freeze();
        self.tell(Some(kept));
    }

    /// Whoever wanted it may be gone.
    fn tell(&mut self, kept: Option<Bytes>) {
        if let Some(wanted) = self.wanted.take() {
            let _ = wanted.send(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_whole_or_not_at_all() {
        let (mut keeper, mut coming) = Keeper::new(4);
        for piece in ["ab", "cd"] {
            keeper.goes_by(&Bytes::from(piece));
        }
        assert!(coming.try_recv().is_err(), "not before its end");
        keeper.ended();
        keeper.ended();
        assert_eq!(coming.try_recv(), Ok(Some(Bytes::from("abcd"))));

        let (mut keeper, mut coming) = Keeper::new(4);
        for piece in ["abc", "de", "f"] {
            keeper.goes_by(&Bytes::from(piece));
        }
        assert_eq!(coming.try_recv(), Ok(None));
        keeper.ended();

        let (mut keeper, coming) = Keeper::new(4);
        keeper.goes_by(&Bytes::from("ab"));
        drop(coming);
        keeper.goes_by(&Bytes::from("c"));
        assert_eq!(keeper.kept.capacity(), 0, "nobody waits for it any longer");

        let (keeper, mut coming) = Keeper::new(4);
        drop(keeper);
        assert_eq!(coming.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
