//! Where the fields of a document stood.

use std::sync::Arc;

use super::tree::{Key, Mark, Node, Value};
use crate::{Location, Problems};

/// Where each field of one document stood.
#[derive(Debug, Clone)]
pub struct SpanIndex {
    file: Arc<str>,
    document: Arc<Node>,
}

impl SpanIndex {
    pub(super) fn new(file: Arc<str>, document: Arc<Node>) -> Self {
        Self { file, document }
    }

    /// The place of a field, or of the nearest one around it that was written: a value's own place, but a map's or a
    /// list's is that of its name.
    #[must_use]
    pub fn locate(&self, field: &str) -> Location {
        let (Mark { line, column }, _) = locate(&self.document, self.document.at, field);
        Location { file: Arc::clone(&self.file), line, column }
    }

    /// Whether the field was written, with nothing in it: `tenant:` or `tenant: ""`.
    pub(super) fn is_empty(&self, field: &str) -> bool {
        let (_, node) = locate(&self.document, self.document.at, field);
        node.is_some_and(Node::is_empty)
    }

    /// Gives each problem without a place the place of its field.
    pub fn place(&self, problems: &mut Problems) {
        for problem in &mut problems.0 {
            problem.at.get_or_insert_with(|| self.locate(&problem.field));
        }
    }
}

/// The place of a field or of the nearest one around it, and the field itself where it was written.
fn locate<'a>(node: &'a Node, at: Mark, path: &str) -> (Mark, Option<&'a Node>) {
    let path = path.strip_prefix('.').unwrap_or(path);
    let ended = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    match &node.value {
        _ if path.is_empty() => (at, Some(node)),
        Value::Map(fields) => {
            let rest = |key: &Key| {
                let quoted = || path.strip_prefix('[')?.strip_prefix(&format!("{:?}", key.text))?.strip_prefix(']');
                path.strip_prefix(key.text.as_str()).filter(|rest| ended(rest)).or_else(quoted)
            };
            let found = fields.iter().find_map(|(key, node)| rest(key).map(|rest| (key, node, rest)));
            let Some((key, node, rest)) = found else { return (at, None) };
            match node.value {
                Value::Scalar { .. } => (node.at, rest.is_empty().then_some(node)),
                _ => locate(node, key.at, rest),
            }
        }
        Value::List(items) => {
            let index = path.strip_prefix('[').and_then(|path| path.split_once(']'));
            let Some((index, rest)) = index else { return (at, None) };
            let item = index.parse::<usize>().ok().and_then(|index| items.get(index));
            item.map_or((at, None), |item| locate(item, item.at, rest))
        }
        Value::Null | Value::Scalar { .. } => (at, None),
    }
}
