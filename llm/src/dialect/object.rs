//! Taking a JSON object apart so that nothing of it is lost unnoticed.

use serde_json::{Map, Value};

use crate::error::RequestError;

/// An object of a request, with its place. Fields are taken out one by one; [`Object::done`] refuses what is left.
#[derive(Debug)]
pub(super) struct Object {
    map: Map<String, Value>,
    at: String,
}

impl Object {
    /// `at` is the object's path in the body; empty for the body itself.
    pub(super) fn new(value: Value, at: impl Into<String>) -> Result<Object, RequestError> {
        let at = at.into();
        match value {
            Value::Object(map) => Ok(Object { map, at }),
            _ => Err(RequestError::field(at.clone(), format!("{at} must be an object"))),
        }
    }

    /// The path of a member.
    pub(super) fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// Takes a member that is not null.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>, RequestError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "must be a string")),
        }
    }

    pub(super) fn required_string(&mut self, key: &str) -> Result<String, RequestError> {
        self.string(key)?.ok_or_else(|| self.refuse(key, "is missing"))
    }

    pub(super) fn bool(&mut self, key: &str) -> Result<Option<bool>, RequestError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.refuse(key, "must be true or false")),
        }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<Value>, RequestError> {
        match self.take(key) {
            None => Ok(None),
            Some(value @ Value::Number(_)) => Ok(Some(value)),
            Some(_) => Err(self.refuse(key, "must be a number")),
        }
    }

    pub(super) fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>, RequestError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.refuse(key, "must be an array")),
        }
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Object>, RequestError> {
        let path = self.path(key);
        self.take(key).map(|value| Object::new(value, path)).transpose()
    }

    /// Takes members that say nothing about the answer: hints for a cache, what was read elsewhere.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.map.shift_remove(*key);
        }
    }

    /// Takes a member that has a meaning only for the caller's dialect, unless it asks for nothing.
    pub(super) fn only(&mut self, key: &str, neutral: &[Value]) -> Result<(), RequestError> {
        match self.take(key) {
            Some(value) if !neutral.iter().any(|fine| same(fine, &value)) => {
                Err(RequestError::field(self.path(key), format!("{}={value} {INEXPRESSIBLE}", self.path(key))))
            }
            _ => Ok(()),
        }
    }

    /// That `key` is wrong.
    pub(super) fn refuse(&self, key: &str, why: &str) -> RequestError {
        let path = self.path(key);
        RequestError::field(path.clone(), format!("{path} {why}"))
    }

    /// That `key` has no counterpart.
    pub(super) fn inexpressible(&self, key: &str) -> RequestError {
        self.refuse(key, INEXPRESSIBLE)
    }

    /// Refuses whatever has not been taken.
    pub(super) fn done(self) -> Result<(), RequestError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            Some((key, _)) => Err(self.inexpressible(key)),
            None => Ok(()),
        }
    }
}

pub(super) const INEXPRESSIBLE: &str = "can't be expressed in the dialect of the provider that serves this request";

/// Equality in which 0 and 0.0 are the same.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some() && a.as_f64() == b.as_f64()
}
