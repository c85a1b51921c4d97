//! What fields a resource has, from the protobuf descriptors: there is no second list of them.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::resource::{MAX_LIMIT, MAX_WEIGHT};

/// A message: its fields in the order of the file.
#[derive(Debug)]
pub(super) struct Message {
    fields: Vec<Field>,
    /// What stands where a field's name belongs may be the secret.
    pub(super) holds_a_secret: bool,
}

/// Messages of one secret and what belongs to it.
const SECRETS: [&str; 2] = [".tollgate.v1.ProviderKey", ".tollgate.v1.Credential"];

/// Numbers that stay below what their type holds: so one that no type holds gets the same answer.
const NARROWER: [(&str, &str, u64); 4] = [
    ("LimitSpec", "limit", MAX_LIMIT),
    ("Backend", "weight", MAX_WEIGHT as u64),
    ("ProviderEndpoint", "weight", MAX_WEIGHT as u64),
    ("ServiceEndpoint", "weight", MAX_WEIGHT as u64),
];

/// Amounts of money: text without a character is none of them, where a field that is left out is.
const AMOUNTS: [(&str, &[&str]); 3] = [
    (
        "PriceSpec",
        &[
            "input",
            "cached_input",
            "cache_write",
            "output",
            "reasoning",
            "audio_input",
            "audio_output",
            "image",
            "request",
            "minimum",
        ],
    ),
    ("PriceTier", &["input", "cached_input", "cache_write", "output", "reasoning"]),
    ("Budget", &["monthly"]),
];

/// Whole numbers that may be decimals, too: those are in a field of their own, which is written under the first one's name.
const DECIMALS: [(&str, &str, &str); 1] = [("LimitSpec", "limit", "limit_decimal")];

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    /// In camelCase.
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Where what is no whole number goes.
    pub(super) decimal: Option<String>,
}

/// How often a value comes.
#[derive(Debug)]
pub(super) enum Shape {
    One(ValueType),
    List(ValueType),
    /// Keys are text.
    Map(ValueType),
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum ValueType {
    Text,
    /// Text that is a decimal.
    Amount,
    Bool,
    /// A whole number from 0 to this.
    Number(u64),
    /// The message of this full name.
    Message(String),
}

impl Message {
    /// The message of a full name.
    pub(super) fn find(name: &str) -> &'static Self {
        SCHEMA.get(name).expect("descriptors are complete")
    }

    /// The message of a kind of resource.
    pub(super) fn of(kind: crate::Kind) -> &'static Self {
        Self::find(&format!(".tollgate.v1.{kind}"))
    }

    /// The message of the `spec` of a kind of resource.
    pub(super) fn spec_of(kind: crate::Kind) -> Option<&'static Self> {
        match &Self::of(kind).field("spec")?.shape {
            Shape::One(ValueType::Message(name)) => Some(Self::find(name)),
            _ => None,
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }
}

static SCHEMA: LazyLock<HashMap<String, Message>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(tollgate_proto::FILE_DESCRIPTOR_SET).expect("built with the program");
    let mut messages = HashMap::new();
    for file in files.file.iter().filter(|file| file.package() == "tollgate.v1") {
        for message in &file.message_type {
            let name = format!(".{}.{}", file.package(), message.name());
            let fields = message.field.iter().filter(|field| !is_decimal(message, field));
            let fields = fields.map(|field| self::field(message, field)).collect();
            let holds_a_secret = SECRETS.contains(&name.as_str());
            messages.insert(name, Message { fields, holds_a_secret });
        }
    }
    messages
});

fn field(message: &DescriptorProto, field: &FieldDescriptorProto) -> Field {
    let shape = match (field.label(), map_value(message, field)) {
        (_, Some(value)) => Shape::Map(type_of(value)),
        (Label::Repeated, None) => Shape::List(type_of(field)),
        _ => Shape::One(narrower(message, field).unwrap_or_else(|| type_of(field))),
    };
    let known = DECIMALS.iter().find(|(of, name, _)| (*of, *name) == (message.name(), field.name()));
    let of_name = |name: &str| message.field.iter().find(|field| field.name() == name);
    let decimal = known.and_then(|(.., decimal)| of_name(decimal)).map(|field| field.json_name().to_owned());
    Field { name: field.json_name().to_owned(), shape, decimal }
}

fn is_decimal(message: &DescriptorProto, field: &FieldDescriptorProto) -> bool {
    DECIMALS.iter().any(|(of, _, decimal)| (*of, *decimal) == (message.name(), field.name()))
}

fn narrower(message: &DescriptorProto, field: &FieldDescriptorProto) -> Option<ValueType> {
    let known = NARROWER.iter().find(|(of, name, _)| (*of, *name) == (message.name(), field.name()));
    let is_amount = AMOUNTS.iter().any(|(of, names)| *of == message.name() && names.contains(&field.name()));
    known.map(|(.., most)| ValueType::Number(*most)).or(is_amount.then_some(ValueType::Amount))
}

/// A map is written as a list of generated entries.
fn map_value<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a FieldDescriptorProto> {
    let name = field.type_name().rsplit('.').next()?;
    let entry = message.nested_type.iter().find(|nested| nested.name() == name)?;
    entry.options.as_ref().filter(|options| options.map_entry())?;
    entry.field.iter().find(|field| field.number() == 2)
}

fn type_of(field: &FieldDescriptorProto) -> ValueType {
    match field.r#type() {
        Type::String => ValueType::Text,
        Type::Bool => ValueType::Bool,
        Type::Uint32 => ValueType::Number(u32::MAX.into()),
        Type::Uint64 => ValueType::Number(u64::MAX),
        Type::Message => ValueType::Message(field.type_name().to_owned()),
        other => unreachable!("resources have no field of type {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_that_of_the_protobuf_files() {
        for kind in crate::Kind::ALL {
            let names: Vec<_> = Message::of(kind).names().collect();
            assert_eq!(names, ["apiVersion", "kind", "metadata", "spec"]);
        }
        let route = Message::find(".tollgate.v1.RouteMatch");
        assert!(matches!(route.field("headers").unwrap().shape, Shape::Map(ValueType::Message(_))));
        assert!(matches!(route.field("methods").unwrap().shape, Shape::List(ValueType::Text)));
        let timeouts = Message::find(".tollgate.v1.Timeouts");
        assert!(timeouts.field("firstByte").is_some() && timeouts.field("first_byte").is_none());
        for (message, name, most) in NARROWER {
            let shape = &Message::find(&format!(".tollgate.v1.{message}")).field(name).unwrap().shape;
            assert!(matches!(shape, Shape::One(ValueType::Number(max)) if *max == most), "{message}.{name}: {shape:?}");
        }
        for (message, name) in AMOUNTS.iter().flat_map(|(message, names)| names.iter().map(move |name| (message, name)))
        {
            let name: String = name
                .split('_')
                .enumerate()
                .map(|(n, word)| if n == 0 { word.to_owned() } else { word[..1].to_uppercase() + &word[1..] })
                .collect();
            let shape = &Message::find(&format!(".tollgate.v1.{message}")).field(&name).unwrap().shape;
            assert!(matches!(shape, Shape::One(ValueType::Amount)), "{message}.{name}: {shape:?}");
        }
        for (message, name, _) in DECIMALS {
            let field = Message::find(&format!(".tollgate.v1.{message}")).field(name).unwrap();
            assert!(field.decimal.is_some(), "{message}.{name}");
        }
        assert!(SECRETS.iter().all(|name| Message::find(name).holds_a_secret), "a secret's message was renamed");
    }
}
