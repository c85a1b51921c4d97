//! One key–value view of a node configuration file and the environment that overrides it, with the place of every value.
//!
//! The file is read without a schema first, so that every mistake in it is reported at once, each with its line; the
//! checks that know what a key means take values out of here by path, and what nobody took is an unknown key.

use std::{collections::BTreeMap, ffi::OsString, fmt, ops::Range};

use toml::de::{DeTable, DeValue};

/// Prefix of the environment variables that override a key: `TOLLGATE_PEER_TLS_CA` is `peer.tls.ca`.
const ENV_PREFIX: &str = "TOLLGATE_";

/// Where a value was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Line and column of the file, from 1.
    File { line: usize, column: usize },
    /// An environment variable.
    Env(String),
    /// Nowhere: the key is missing.
    Missing,
}

/// One mistake, with the field and the place it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigProblem {
    /// Dotted path: `peer.tls.ca`. Empty for a mistake in the syntax.
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) origin: Origin,
}

impl ConfigProblem {
    /// `node.toml:3:8: node.id: …`, as compilers write it.
    pub(crate) fn display<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            match &self.origin {
                Origin::File { line, column } => write!(f, "{file}:{line}:{column}: ")?,
                Origin::Env(name) => write!(f, "{name}: ")?,
                Origin::Missing => write!(f, "{file}: ")?,
            }
            if !self.field.is_empty() {
                write!(f, "{}: ", self.field)?;
            }
            f.write_str(&self.message)
        })
    }
}

/// A scalar or a list of strings, as far as node configurations have them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    List(Vec<String>),
    Flag(bool),
    /// Something that no key takes: a float, a date, a list of tables.
    Other(&'static str),
    /// From the environment, where everything is text until a key says what it wants.
    Raw(String),
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Located {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// Every value by dotted path.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) values: BTreeMap<String, Located>,
    /// Tables that stand in the file, `[peer.tls]` for one, even when they are empty.
    pub(crate) tables: BTreeMap<String, Origin>,
    pub(crate) problems: Vec<ConfigProblem>,
    /// The file has mistakes in its syntax, so that not all of it was read.
    pub(crate) broken: bool,
}

impl Source {
    /// Reads a file's text and the environment over it. `known` says which paths exist, so that other `TOLLGATE_*`
    /// variables are left alone.
    pub(crate) fn read(text: &str, env: impl Iterator<Item = (OsString, OsString)>, known: &[&str]) -> Source {
        let mut source = Source::default();
        let (table, errors) = DeTable::parse_recoverable(text);
        source.broken = !errors.is_empty();
        for error in errors {
            let origin = position(text, error.span());
            source.problems.push(ConfigProblem { field: String::new(), message: error.message().to_owned(), origin });
        }
        source.take_table(text, "", table.get_ref());
        source.take_env(env, known);
        source
    }

    fn take_table(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let origin = position(text, Some(key.span()));
            match value.get_ref() {
                DeValue::Table(inner) => {
                    self.tables.insert(path.clone(), origin);
                    self.take_table(text, &path, inner);
                }
                other => {
                    self.values.insert(path, Located { value: scalar(other), origin });
                }
            }
        }
    }

    fn take_env(&mut self, env: impl Iterator<Item = (OsString, OsString)>, known: &[&str]) {
        let names: BTreeMap<String, &str> = known
            .iter()
            .map(|path| (format!("{ENV_PREFIX}{}", path.replace('.', "_").to_uppercase()), *path))
            .collect();
        for (name, value) in env {
            let Some(name) = name.to_str() else { continue };
            let Some(path) = names.get(name) else { continue };
            let origin = Origin::Env(name.to_owned());
            match value.into_string() {
                Ok(text) => {
                    self.values.insert((*path).to_owned(), Located { value: Value::Raw(text), origin });
                }
                Err(_) => self.problems.push(ConfigProblem {
                    field: (*path).to_owned(),
                    message: "is not valid UTF-8".to_owned(),
                    origin,
                }),
            }
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number out of range"),
        },
        DeValue::Array(items) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map_or(Value::Other("a list of something other than text"), Value::List),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(value) => Value::Flag(*value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn position(text: &str, span: Option<Range<usize>>) -> Origin {
    let at = span.map_or(0, |span| span.start.min(text.len()));
    let before = &text.as_bytes()[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = at - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1) + 1;
    Origin::File { line, column }
}
