//! Resources to JSON and YAML: only what is set, in the order of the schema, numbers as numbers.

use serde_json::{Map, Value as Json};
use tollgate_proto::v1::{self, resource::Kind as Raw};

use super::schema::{Message, Shape, ValueType};
use crate::Kind;

/// One resource as JSON; `null` where it has no kind.
pub(super) fn to_json(resource: &v1::Resource) -> Json {
    let Some(kind) = &resource.kind else { return Json::Null };
    let (kind, json) = match kind {
        Raw::Service(it) => (Kind::Service, serde_json::to_value(it)),
        Raw::Provider(it) => (Kind::Provider, serde_json::to_value(it)),
        Raw::Route(it) => (Kind::Route, serde_json::to_value(it)),
        Raw::Tenant(it) => (Kind::Tenant, serde_json::to_value(it)),
        Raw::Consumer(it) => (Kind::Consumer, serde_json::to_value(it)),
        Raw::Limit(it) => (Kind::Limit, serde_json::to_value(it)),
        Raw::Price(it) => (Kind::Price, serde_json::to_value(it)),
        Raw::Certificate(it) => (Kind::Certificate, serde_json::to_value(it)),
    };
    let mut json = json.expect("a message has only text for keys and no number that JSON lacks");
    if let Json::Object(fields) = &mut json {
        numbers(Message::of(kind), fields);
    }
    json
}

/// proto3 JSON writes 64 bits as text, for readers that cannot count so far; people and YAML want numbers.
fn numbers(message: &'static Message, fields: &mut Map<String, Json>) {
    for field in message.fields() {
        let decimal = field.decimal.as_ref().filter(|decimal| fields.contains_key(*decimal));
        if let Some(decimal) = decimal {
            // What is there as a decimal is written as the number that it is.
            let rename = |(name, json)| if name == *decimal { (field.name.clone(), json) } else { (name, json) };
            *fields = std::mem::take(fields).into_iter().map(rename).collect();
        }
    }
    for (name, json) in fields {
        let Some(field) = message.field(name) else { continue };
        match (&field.shape, json) {
            (Shape::One(one), json) => number(one, json),
            (Shape::List(item), Json::Array(items)) => items.iter_mut().for_each(|json| number(item, json)),
            (Shape::Map(value), Json::Object(fields)) => fields.values_mut().for_each(|json| number(value, json)),
            _ => {}
        }
    }
}

fn number(wanted: &ValueType, json: &mut Json) {
    match (wanted, &mut *json) {
        (ValueType::Message(name), Json::Object(fields)) => numbers(Message::find(name), fields),
        (ValueType::Number(_), Json::String(text)) => {
            if let Ok(number) = text.parse::<u64>() {
                *json = Json::from(number);
            }
        }
        _ => {}
    }
}

/// One document.
pub(super) fn document(json: &Json, out: &mut String) {
    match json {
        Json::Object(fields) if !fields.is_empty() => map(fields, 0, out),
        other => {
            scalar(other, out);
            out.push('\n');
        }
    }
}

/// In block style, each line indented but the first, which stands where it is put.
fn map(fields: &Map<String, Json>, indent: usize, out: &mut String) {
    for (n, (name, value)) in fields.iter().enumerate() {
        if n > 0 {
            pad(indent, out);
        }
        text(name, out);
        out.push(':');
        under(value, indent, out);
    }
}

/// What follows a key's colon.
fn under(value: &Json, indent: usize, out: &mut String) {
    match value {
        Json::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            pad(indent + 2, out);
            map(fields, indent + 2, out);
        }
        Json::Array(items) if !items.is_empty() => {
            out.push('\n');
            for item in items {
                pad(indent + 2, out);
                out.push_str("- ");
                match item {
                    Json::Object(fields) if !fields.is_empty() => map(fields, indent + 4, out),
                    other => {
                        scalar(other, out);
                        out.push('\n');
                    }
                }
            }
        }
        other => {
            out.push(' ');
            scalar(other, out);
            out.push('\n');
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(value: &Json, out: &mut String) {
    match value {
        Json::String(value) => text(value, out),
        // Empty lists and maps are the same in JSON; lists of lists do not occur in resources.
        other => out.push_str(&other.to_string()),
    }
}

/// Plain where nothing could take it for anything else, in quotes otherwise.
fn text(value: &str, out: &mut String) {
    if is_plain(value) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // YAML 1.2 §5.1 and §5.4: not printable, or a line break to some readers.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Letters first, then what is neither syntax nor part of a number, and no word that some reader takes for a truth
/// value or nothing.
fn is_plain(value: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let first = value.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    let rest = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    first && rest && !WORDS.contains(&value.to_ascii_lowercase().as_str())
}
