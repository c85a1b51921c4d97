//! YAML and JSON, to and from resources.
//!
//! The mapping is proto3 JSON in camelCase, and nothing but it: an unknown field, a key that is there twice and a value
//! of the wrong type are problems, each with its place and what would be right. Text is text however it is written:
//! `on: [429]` and `input: 2.50` mean what they show, and no YAML 1.1 `no` becomes false. A file is any number of
//! documents; a document is a resource or a list of them. Tags and merge keys are refused; aliases are followed, to a
//! bound.

mod emit;
mod examine;
mod read;
mod schema;
mod spans;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

pub use examine::{Examined, examine};
pub use spans::SpanIndex;
use tollgate_proto::v1;

use self::{
    read::Read,
    tree::{Mark, Node, Value},
};
use crate::{Location, Problem, Problems};

/// A resource and where each of its fields stood.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What was read.
    pub resource: v1::Resource,
    /// Where from.
    pub index: SpanIndex,
}

/// Reads every document of a file, YAML or JSON. What has problems is left out.
#[must_use]
pub fn parse(file: &str, text: &str) -> (Vec<Parsed>, Problems) {
    let (documents, broken) = read_all(file, text);
    let mut problems = Problems::default();
    let mut parsed = Vec::new();
    for Document { read, index } in documents {
        let clean = read.problems.is_empty();
        problems.extend(located(&read, &index));
        if let Some(resource) = read.resource.filter(|_| clean) {
            parsed.push(Parsed { resource, index });
        }
    }
    problems.extend(broken);
    (parsed, problems)
}

/// Reads as [`parse`] does and checks every resource by itself: everything that is wrong with the file, at once.
#[must_use]
pub fn parse_and_check(file: &str, text: &str) -> (Vec<Parsed>, Problems) {
    let (examined, broken) = examine(file, text);
    let mut problems = Problems::default();
    let mut parsed = Vec::new();
    for Examined { resource, index, problems: found, .. } in examined {
        if let Some(resource) = resource.filter(|_| found.is_empty()) {
            parsed.push(Parsed { resource, index });
        }
        problems.extend(found);
    }
    problems.extend(broken);
    (parsed, problems)
}

/// Documents with only what is set, in a stable order.
#[must_use]
pub fn to_yaml(resources: &[v1::Resource]) -> String {
    let mut out = String::new();
    for (n, resource) in resources.iter().enumerate() {
        if n > 0 {
            out.push_str("---\n");
        }
        emit::document(&emit::to_json(resource), &mut out);
    }
    out
}

/// The same as JSON; `null` for a resource without a kind.
#[must_use]
pub fn to_json(resource: &v1::Resource) -> serde_json::Value {
    emit::to_json(resource)
}

struct Document {
    read: Read,
    index: SpanIndex,
}

/// Every document that is not broken, and what is wrong with the others.
fn read_all(file: &str, text: &str) -> (Vec<Document>, Problems) {
    let file: Arc<str> = Arc::from(file);
    let (nodes, broken) = tree::documents(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut documents = Vec::new();
    for node in nodes {
        match node.value {
            Value::Null => {} // nothing between two `---`
            Value::List(items) => documents.extend(items.into_iter().map(|item| document(&file, item))),
            _ => documents.push(document(&file, node)),
        }
    }
    let broken = broken.into_iter().map(|broken| Problem {
        kind: None,
        name: String::new(),
        field: String::new(),
        message: broken.message,
        at: Some(location(&file, broken.at)),
    });
    (documents, Problems(broken.collect()))
}

fn document(file: &Arc<str>, node: Node) -> Document {
    let read = read::read(&node);
    Document { read, index: SpanIndex::new(Arc::clone(file), Arc::new(node)) }
}

fn located(read: &Read, index: &SpanIndex) -> Problems {
    let problem = |found: &read::Found| Problem {
        kind: read.kind,
        name: read.name.clone(),
        field: found.field.clone(),
        message: found.message.clone(),
        at: Some(Location { line: found.at.line, column: found.at.column, ..index.locate("") }),
    };
    Problems(read.problems.iter().map(problem).collect())
}

fn location(file: &Arc<str>, at: Mark) -> Location {
    Location { file: Arc::clone(file), line: at.line, column: at.column }
}
