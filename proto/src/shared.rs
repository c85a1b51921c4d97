//! Messages that are held in several places and seldom changed.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType},
};

/// A message of which a clone is the same: it is copied when one who is not alone with it changes it. On the wire it is the message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Shared<M>(Arc<M>);

impl<M> From<M> for Shared<M> {
    fn from(message: M) -> Self {
        Self(Arc::new(message))
    }
}

impl<M> Deref for Shared<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: Clone> DerefMut for Shared<M> {
    fn deref_mut(&mut self) -> &mut M {
        Arc::make_mut(&mut self.0)
    }
}

impl<M: Message + Clone + Default> Message for Shared<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        (**self).encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        (**self).merge_field(tag, wire_type, buf, context)
    }

    fn encoded_len(&self) -> usize {
        (**self).encoded_len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::v1::{Attribution, Settle};

    #[test]
    fn it_is_on_the_wire_as_the_message_and_a_clone_is_no_copy_before_it_changes() {
        let plain = Attribution { tenant: "acme".into(), status: 200, ..Attribution::default() };
        let settle = Settle { request: 7, attribution: Some(plain.clone().into()), ..Settle::default() };
        let mut bytes = vec![8, 7, 34, u8::try_from(plain.encoded_len()).unwrap()];
        plain.encode(&mut bytes).unwrap();
        assert_eq!(settle.encode_to_vec(), bytes);
        let mut read = Settle::decode(&*bytes).unwrap();
        assert_eq!(read, settle);

        let kept = read.attribution.clone().unwrap();
        let shared = read.attribution.as_mut().unwrap();
        assert!(std::ptr::eq(&*kept, &**shared));
        shared.status = 500;
        assert_eq!((kept.status, shared.status), (200, 500));
    }
}
