//! A tree to a resource: every field against the schema, every problem with its place.

use std::collections::{HashMap, hash_map::Entry};

use serde_json::{Map, Number, Value as Json};
use tollgate_proto::v1::{self, resource::Kind as Raw};

use super::{
    schema::{Message, Shape, ValueType},
    tree::{Key, Mark, Node, Value},
};
use crate::{Field, Kind, check::API_VERSION, kind::UnknownKind, nearest, nearest::hint};

/// What a message calls that which has fields or items.
const CONTAINERS: [&str; 2] = ["a map", "a list"];
/// And an amount of money.
const DECIMAL: &str = "a decimal such as 2.50";

/// What one document holds.
pub(super) struct Read {
    pub(super) kind: Option<Kind>,
    pub(super) name: String,
    /// As much of it as could be read; absent when not even its kind could.
    pub(super) resource: Option<v1::Resource>,
    pub(super) problems: Vec<Found>,
}

/// A problem of a document.
pub(super) struct Found {
    pub(super) field: String,
    pub(super) at: Mark,
    pub(super) message: String,
    pub(super) what: What,
}

/// What could not be read.
pub(super) enum What {
    /// The value of the field.
    Value,
    /// A field that there is not. It may have been meant for another one in `parent`.
    Unknown { parent: String, meant: Option<String> },
}

pub(super) fn read(document: &Node) -> Read {
    let mut reader = Reader { spec: None, problems: Vec::new() };
    let Value::Map(fields) = &document.value else {
        reader.add_at(document.at, String::new(), format!("must be a resource, not {}", what(&document.value)));
        return Read { kind: None, name: String::new(), resource: None, problems: reader.problems };
    };
    let name = name_of(fields);
    let kind = reader.kind(fields, document.at);
    reader.required(fields, document.at);
    let Some(kind) = kind else {
        return Read { kind, name, resource: None, problems: reader.problems };
    };
    reader.spec = Message::spec_of(kind);
    let mut json = reader.message(Message::of(kind), fields, None);
    json.insert("kind".to_owned(), Json::String(kind.as_str().to_owned()));
    let resource = match resource(kind, Json::Object(json)) {
        Ok(resource) => Some(resource),
        Err(error) => {
            reader.add_at(document.at, String::new(), format!("cannot be read: {error}"));
            None
        }
    };
    Read { kind: Some(kind), name, resource, problems: reader.problems }
}

/// The typed message of what was read.
pub(super) fn resource(kind: Kind, json: Json) -> Result<v1::Resource, serde_json::Error> {
    use serde_json::from_value;
    let kind = match kind {
        Kind::Service => Raw::Service(from_value(json)?),
        Kind::Provider => Raw::Provider(from_value(json)?),
        Kind::Route => Raw::Route(from_value(json)?),
        Kind::Tenant => Raw::Tenant(from_value(json)?),
        Kind::Consumer => Raw::Consumer(from_value(json)?),
        Kind::Limit => Raw::Limit(from_value(json)?),
        Kind::Price => Raw::Price(from_value(json)?),
        Kind::Certificate => Raw::Certificate(from_value(json)?),
    };
    Ok(v1::Resource { kind: Some(kind) })
}

type Fields = [(Key, Node)];

fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a Node> {
    fields.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// The text of a number with a point in it.
fn decimal(node: &Node) -> Option<&str> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text(node).filter(|text| text.split_once('.').is_some_and(|(whole, part)| is_digits(whole) && is_digits(part)))
}

fn name_of(fields: &Fields) -> String {
    let metadata = find(fields, "metadata").map(|node| &node.value);
    let Some(Value::Map(metadata)) = metadata else { return String::new() };
    find(metadata, "name").and_then(text).unwrap_or_default().to_owned()
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Scalar { .. } => "a single value",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

/// More than anyone reads; a file of nothing but unknown fields would else be answered with many times its size.
const MAX_PROBLEMS: usize = 100;

struct Reader {
    /// What `spec` has in a resource of this kind.
    spec: Option<&'static Message>,
    problems: Vec<Found>,
}

impl Reader {
    fn add_at(&mut self, at: Mark, field: String, message: String) {
        self.add(Found { field, at, message, what: What::Value });
    }

    fn add(&mut self, found: Found) {
        match self.problems.len() {
            MAX_PROBLEMS => {
                let message = "there is more wrong with this resource: the rest is not shown".to_owned();
                self.problems.push(Found { field: String::new(), message, what: What::Value, ..found });
            }
            shown if shown < MAX_PROBLEMS => self.problems.push(found),
            _ => {}
        }
    }

    fn kind(&mut self, fields: &Fields, document: Mark) -> Option<Kind> {
        let all = || Kind::ALL.map(Kind::as_str).join(" | ");
        let Some(node) = find(fields, "kind") else {
            self.add_at(document, "kind".to_owned(), format!("is missing: {}", all()));
            return None;
        };
        let message = match text(node) {
            None if !matches!(node.value, Value::Null) => format!("must be text, not {}", what(&node.value)),
            None | Some("") => format!("is empty: {}", all()),
            Some(given) => match Kind::from_exact(given) {
                Some(kind) => return Some(kind),
                None => UnknownKind::new(given).to_string(),
            },
        };
        self.add_at(node.at, "kind".to_owned(), message);
        None
    }

    /// What every resource has.
    fn required(&mut self, fields: &Fields, document: Mark) {
        match find(fields, "apiVersion") {
            None => self.add_at(document, "apiVersion".to_owned(), format!("is missing: it must be {API_VERSION}")),
            Some(node) => match text(node) {
                Some(API_VERSION) => {}
                Some(given) if !given.is_empty() => {
                    let message = format!("`{given}` is unknown: it must be {API_VERSION}");
                    self.add_at(node.at, "apiVersion".to_owned(), message);
                }
                _ => self.add_at(node.at, "apiVersion".to_owned(), format!("must be {API_VERSION}")),
            },
        }
        self.name(fields, document);
    }

    fn name(&mut self, fields: &Fields, document: Mark) {
        let Some((key, metadata)) = fields.iter().find(|(key, _)| key.text == "metadata") else {
            return self.add_at(document, "metadata.name".to_owned(), "is missing".to_owned());
        };
        let Value::Map(metadata) = &metadata.value else { return self.no_name(key.at, "is missing") };
        match find(metadata, "name") {
            None => self.no_name(key.at, "is missing"),
            Some(node) if node.is_empty() => self.no_name(node.at, "is empty"),
            Some(_) => {} // text, or told when it is read
        }
    }

    fn no_name(&mut self, at: Mark, message: &str) {
        self.add_at(at, "metadata.name".to_owned(), message.to_owned());
    }

    fn message(&mut self, message: &'static Message, fields: &Fields, path: Option<&Field<'_>>) -> Map<String, Json> {
        let mut json = Map::new();
        let mut seen = HashMap::new();
        for (key, node) in fields {
            let at = path.map_or_else(|| Field::root(&key.text), |path| path.field(&key.text));
            let Some(field) = message.field(&key.text) else {
                self.unknown(message, key, path);
                continue;
            };
            if path.is_none() && seen.contains_key(key.text.as_str()) {
                self.second_resource(key, &at);
                break;
            }
            if self.twice(&mut seen, key, &at) || matches!(node.value, Value::Null) {
                continue;
            }
            if let Some((decimal, text)) = field.decimal.as_ref().zip(decimal(node)) {
                json.insert(decimal.clone(), Json::String(text.to_owned()));
                continue;
            }
            let value = match &field.shape {
                Shape::One(one) => self.value(one, node, &at),
                Shape::List(item) => self.list(item, node, &at),
                Shape::Map(value) => self.map(value, node, &at),
            };
            json.extend(value.map(|value| (key.text.clone(), value)));
        }
        json
    }

    fn unknown(&mut self, message: &'static Message, key: &Key, parent: Option<&Field<'_>>) {
        let parent_text = parent.map(Field::to_string).unwrap_or_default();
        let all = message.names().collect::<Vec<_>>().join(", ");
        let (field, said, meant) = if message.holds_a_secret {
            // What stands here may be the secret itself, written without its field.
            let said = format!(
                "there is a field that is unknown and not shown, as it may be a secret: the fields here are {all}"
            );
            (parent_text.clone(), said, None)
        } else {
            let at = parent.map_or_else(|| Field::root(&key.text), |parent| parent.field(&key.text));
            let in_spec = parent.is_none() && self.spec.is_some_and(|spec| spec.field(&key.text).is_some());
            if in_spec {
                let message = format!("`{}` belongs into `spec`: indent it under that", key.text);
                let what = What::Unknown { parent: "spec".to_owned(), meant: Some(key.text.clone()) };
                return self.add(Found { field: key.text.clone(), at: key.at, message, what });
            }
            let said = if key.text == "<<" {
                "merge keys are not supported: write the fields out".to_owned()
            } else {
                format!("unknown field `{}`{}: the fields here are {all}", key.text, hint(&key.text, message.names()))
            };
            (at.to_string(), said, nearest(&key.text, message.names()).map(str::to_owned))
        };
        let what = What::Unknown { parent: parent_text, meant };
        self.add(Found { field, at: key.at, message: said, what });
    }

    /// A field of the resource itself is there again: told once, as it is not one field that is wrong.
    fn second_resource(&mut self, key: &Key, at: &Field<'_>) {
        let message =
            format!("`{}` is there twice: if a new resource begins here, put a line `---` before it", key.text);
        self.add_at(key.at, at.to_string(), message);
    }

    /// `seen` has the lines of the keys before.
    fn twice<'a>(&mut self, seen: &mut HashMap<&'a str, u32>, key: &'a Key, at: &Field<'_>) -> bool {
        let first = match seen.entry(&key.text) {
            Entry::Vacant(vacant) => {
                vacant.insert(key.at.line);
                return false;
            }
            Entry::Occupied(first) => *first.get(),
        };
        self.add_at(key.at, at.to_string(), format!("`{}` is there twice: first in line {first}", key.text));
        true
    }

    fn list(&mut self, item: &'static ValueType, node: &Node, at: &Field<'_>) -> Option<Json> {
        let items = match &node.value {
            Value::List(items) => items,
            Value::Map(_) => return self.wrong_with(node, at, "a list", ": begin each item with `- `"),
            _ => return self.wrong_with(node, at, "a list", ": put it into [ ]"),
        };
        let read = |(n, node): (usize, &Node)| self.value(item, node, &at.index(n)).unwrap_or_else(|| empty(item));
        Some(Json::Array(items.iter().enumerate().map(read).collect()))
    }

    fn map(&mut self, value: &'static ValueType, node: &Node, at: &Field<'_>) -> Option<Json> {
        let Value::Map(fields) = &node.value else {
            self.wrong(node, at, "a map");
            return None;
        };
        let mut json = Map::new();
        let mut seen = HashMap::new();
        for (key, node) in fields {
            let at = at.key(&key.text);
            if !self.twice(&mut seen, key, &at) {
                json.extend(self.value(value, node, &at).map(|value| (key.text.clone(), value)));
            }
        }
        Some(Json::Object(json))
    }

    fn value(&mut self, wanted: &'static ValueType, node: &Node, at: &Field<'_>) -> Option<Json> {
        match (wanted, &node.value) {
            (ValueType::Message(name), Value::Map(fields)) => {
                Some(Json::Object(self.message(Message::find(name), fields, Some(at))))
            }
            (ValueType::Message(name), _) => {
                let all = Message::find(name).names().collect::<Vec<_>>().join(", ");
                self.wrong_with(node, at, "a map", &format!(": its fields are {all}"))
            }
            (ValueType::Amount, Value::Scalar { text, .. }) if text.is_empty() => self.wrong(node, at, DECIMAL),
            (ValueType::Text | ValueType::Amount, Value::Scalar { text, .. }) => Some(Json::String(text.clone())),
            (ValueType::Amount, _) => self.wrong(node, at, DECIMAL),
            (ValueType::Text, _) => self.wrong(node, at, "text"),
            (ValueType::Bool, Value::Scalar { text, quoted: false }) if text == "true" => Some(Json::Bool(true)),
            (ValueType::Bool, Value::Scalar { text, quoted: false }) if text == "false" => Some(Json::Bool(false)),
            (ValueType::Bool, _) => self.wrong(node, at, "true or false"),
            (ValueType::Number(max), Value::Scalar { text, .. }) => self.number(*max, text, node, at),
            (ValueType::Number(_), _) => self.wrong(node, at, "a whole number"),
        }
    }

    fn number(&mut self, max: u64, text: &str, node: &Node, at: &Field<'_>) -> Option<Json> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.wrong(node, at, "a whole number, 0 or more, in digits");
        }
        match text.parse::<u64>() {
            Ok(number) if number <= max => Some(Json::Number(Number::from(number))),
            _ => {
                self.add_at(node.at, at.to_string(), format!("must be at most {max}"));
                None
            }
        }
    }

    fn wrong(&mut self, node: &Node, at: &Field<'_>, wanted: &str) -> Option<Json> {
        self.wrong_with(node, at, wanted, "")
    }

    /// `cure` says what to do, where it can be told.
    fn wrong_with(&mut self, node: &Node, at: &Field<'_>, wanted: &str, cure: &str) -> Option<Json> {
        let message = match &node.value {
            // What is shown is short and stands where a number or a truth value belongs: where a map or a list does, it may
            // be a secret that lost its field.
            Value::Scalar { text, quoted } if text.len() <= 20 && !CONTAINERS.contains(&wanted) => {
                let quote = if *quoted { "\"" } else { "" };
                format!("must be {wanted}, not `{quote}{text}{quote}`")
            }
            Value::Scalar { .. } => format!("must be {wanted}, not text{cure}"),
            other => format!("must be {wanted}, not {}{cure}", what(other)),
        };
        self.add_at(node.at, at.to_string(), message);
        None
    }
}

/// Stands in a list for an item that could not be read, so that the others keep their places.
fn empty(wanted: &ValueType) -> Json {
    match wanted {
        ValueType::Text | ValueType::Amount => Json::String(String::new()),
        ValueType::Bool => Json::Bool(false),
        ValueType::Number(_) => Json::Number(Number::from(0)),
        ValueType::Message(_) => Json::Object(Map::new()),
    }
}
