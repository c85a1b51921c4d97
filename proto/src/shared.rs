//! Messages that are held in several places and seldom changed.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock},
};

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType},
};

use crate::state::v1::Attribution;

/// A message of which a clone is the same: it is copied when one who is not alone with it changes it. On the wire it is the message. One
/// that says nothing takes no memory.
#[derive(Clone)]
pub struct Shared<M>(Option<Arc<M>>);

/// What can be shared.
pub trait Sharable: Message + Clone + Default + PartialEq + 'static {
    /// That which says nothing.
    fn nothing() -> &'static Self;
}

impl Sharable for Attribution {
    fn nothing() -> &'static Self {
        static NOTHING: LazyLock<Attribution> = LazyLock::new(Attribution::default);
        &NOTHING
    }
}

impl<M> Default for Shared<M> {
    fn default() -> Self {
        Self(None)
    }
}

impl<M: Sharable> From<M> for Shared<M> {
    fn from(message: M) -> Self {
        // What takes no bytes on the wire says nothing.
        Self((message.encoded_len() > 0).then(|| Arc::new(message)))
    }
}

impl<M: Sharable> Deref for Shared<M> {
    type Target = M;

    fn deref(&self) -> &M {
        self.0.as_deref().unwrap_or_else(|| M::nothing())
    }
}

impl<M: Sharable> DerefMut for Shared<M> {
    fn deref_mut(&mut self) -> &mut M {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl<M: Sharable> PartialEq for Shared<M> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<M: Sharable + Eq> Eq for Shared<M> {}

impl<M: Sharable + Hash> Hash for Shared<M> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (**self).hash(hasher);
    }
}

impl<M: Sharable + fmt::Debug> fmt::Debug for Shared<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<M: Sharable> Message for Shared<M> {
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
    use crate::state::v1::Settle;

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

    #[test]
    fn one_that_says_nothing_is_none_until_it_is_changed() {
        let mut nobody = Shared::from(Attribution::default());
        assert!(nobody.0.is_none() && *nobody == Attribution::default());
        let settle = Settle { attribution: Some(nobody.clone()), ..Settle::default() };
        assert_eq!(settle.encode_to_vec(), [34, 0], "it is there all the same");
        assert_eq!(Settle::decode(&[34, 0][..]).unwrap(), settle);
        nobody.prepaid = true;
        nobody.prepaid = false;
        assert_eq!(nobody, Shared::default());
    }
}
