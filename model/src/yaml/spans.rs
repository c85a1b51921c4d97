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
        let Mark { line, column } = locate(&self.document, self.document.at, field);
        Location { file: Arc::clone(&self.file), line, column }
    }

    /// Gives each problem without a place the place of its field.
    pub fn place(&self, problems: &mut Problems) {
        for problem in &mut problems.0 {
            problem.at.get_or_insert_with(|| self.locate(&problem.field));
        }
    }
}

fn locate(node: &Node, at: Mark, path: &str) -> Mark {
    let path = path.strip_prefix('.').unwrap_or(path);
    let ended = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    match &node.value {
        _ if path.is_empty() => at,
        Value::Map(fields) => {
            let rest = |key: &Key| {
                let quoted = || path.strip_prefix('[')?.strip_prefix(&format!("{:?}", key.text))?.strip_prefix(']');
                path.strip_prefix(key.text.as_str()).filter(|rest| ended(rest)).or_else(quoted)
            };
            let found = fields.iter().find_map(|(key, node)| rest(key).map(|rest| (key, node, rest)));
            let Some((key, node, rest)) = found else { return at };
            match node.value {
                Value::Scalar { .. } => node.at,
                _ => locate(node, key.at, rest),
            }
        }
        Value::List(items) => {
            let index = path.strip_prefix('[').and_then(|path| path.split_once(']'));
            let Some((index, rest)) = index else { return at };
            let item = index.parse::<usize>().ok().and_then(|index| items.get(index));
            item.map_or(at, |item| locate(item, item.at, rest))
        }
        Value::Null | Value::Scalar { .. } => at,
    }
}
