//! Request ids: UUIDs of version 7, which sort by time.

use http::{HeaderName, HeaderValue};
use uuid::Builder;

use crate::clock;

/// On every answer, and on what an upstream is sent.
pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One exchange's id. Ours always: what a client sends as `x-request-id` is not believed, so ids stay unique.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    pub(crate) fn generate() -> Self {
        let uuid = Builder::from_unix_timestamp_millis(clock::now_millis(), &rand::random()).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text: &str = uuid.hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).expect("hex digits and hyphens"))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().expect("hex digits and hyphens")
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_of_version_7() {
        let (one, two) = (RequestId::generate(), RequestId::generate());
        assert_ne!(one.as_str(), two.as_str());
        assert_eq!((one.as_str().len(), &one.as_str()[14..15]), (36, "7"));
    }
}
