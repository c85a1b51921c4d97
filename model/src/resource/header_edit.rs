//! Headers that a route sets, adds and removes.

use http::{HeaderMap, HeaderName, HeaderValue};

/// What is done to headers, in this order: `remove`, `set`, `add`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdit {
    /// In place of whatever values there are.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside whatever values there are.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Gone.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdit {
    /// Does it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edit = HeaderEdit {
            set: vec![(name("a"), value("1"))],
            add: vec![(name("a"), value("2")), (name("b"), value("3"))],
            remove: vec![name("b"), name("c")],
        };
        let mut headers = HeaderMap::new();
        for (known, old) in [("a", "x"), ("a", "y"), ("b", "z"), ("c", "z"), ("d", "kept")] {
            headers.append(known, value(old));
        }
        edit.apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("a"), all("b"), all("c"), all("d")), (vec!["1", "2"], vec!["3"], vec![], vec!["kept"]));
    }
}
