//! Everything that is wrong with a file, and nothing twice: what could not be read, and what the rest means.
//!
//! A resource with a field that can't be read is checked all the same. What a check says then may only follow from the
//! field that is missing, and is left out: `backends` that could not be read are not missing as well.

use tollgate_proto::v1;

use super::{
    SpanIndex, located,
    read::{Found, Read, What},
    read_all,
};
use crate::{Kind, Problem, Problems, check};

/// One resource of a file: as much of it as could be read, and everything that is wrong with it by itself.
#[derive(Debug, Clone)]
pub struct Examined {
    /// Absent where not even that could be told.
    pub kind: Option<Kind>,
    /// Empty where it has none.
    pub name: String,
    /// Without what could not be read; absent when its kind could not.
    pub resource: Option<v1::Resource>,
    /// Where its fields stood.
    pub index: SpanIndex,
    /// Each with its place.
    pub problems: Problems,
    /// What [`check`] says of `resource`, word for word: told in `problems`, but for what follows from a field that
    /// could not be read.
    pub checked: Problems,
}

/// Reads and checks every resource of a file, YAML or JSON, and tells what is wrong with the text itself: documents of
/// broken syntax are not among the resources.
#[must_use]
pub fn examine(file: &str, text: &str) -> (Vec<Examined>, Problems) {
    let (documents, broken) = read_all(file, text);
    (documents.into_iter().map(|document| one(document.read, document.index)).collect(), broken)
}

fn one(read: Read, index: SpanIndex) -> Examined {
    let mut problems = located(&read, &index);
    let checked = read.resource.as_ref().and_then(|resource| check(resource).err()).unwrap_or_default();
    let news = checked.iter().filter(|problem| !read.problems.iter().any(|found| follows(problem, found)));
    let mut news =
        Problems(news.map(|problem| Problem { message: written(problem, &index), ..problem.clone() }).collect());
    index.place(&mut news);
    problems.extend(news);
    let Read { kind, name, resource, .. } = read;
    Examined { kind, name, resource, index, problems, checked }
}

/// Whether a problem of the resource may be there only because of what could not be read.
fn follows(problem: &Problem, found: &Found) -> bool {
    let field = problem.field.as_str();
    let (parent, name) = match &found.what {
        What::Unknown { parent, meant: Some(meant) } => (parent.as_str(), meant.as_str()),
        What::Unknown { parent, meant: None } => return field == parent,
        What::Value => parent_of(&found.field),
    };
    let meant = field.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.').unwrap_or(rest).strip_prefix(name));
    meant.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        || is_inside(field, parent) && mentions(&problem.message, name)
        || is_inside(&found.field, field) && words(&problem.message).next().is_none()
}

/// Whether a field is the other, or is in it. Everything is in the resource itself.
fn is_inside(inner: &str, outer: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || outer.is_empty() || rest.starts_with(['.', '[']))
}

fn parent_of(field: &str) -> (&str, &str) {
    let at = field.rfind(['.', '[']).unwrap_or(0);
    let (parent, name) = field.split_at(at);
    (parent, name.strip_prefix('.').unwrap_or(name))
}

/// What a message has between backticks.
fn words(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// Whether a message speaks of this field: `required`, or `required: true`.
fn mentions(message: &str, field: &str) -> bool {
    words(message).any(|word| word.split_once(':').map_or(word, |(name, _)| name) == field)
}

/// The message of a check, which can't tell a field that is absent from one that is empty, as it fits what was written.
fn written(problem: &Problem, index: &SpanIndex) -> String {
    let message = &problem.message;
    if let Some(rest) = message.strip_prefix("is missing")
        && index.is_empty(&problem.field)
    {
        return format!("is empty{rest}");
    }
    if !message.starts_with("must have") {
        return message.clone();
    }
    let empty = words(message).find(|word| index.is_empty(&format!("{}.{word}", problem.field)));
    empty.map_or_else(|| message.clone(), |word| format!("{message}; `{word}` is empty"))
}
