//! Answers to `GET /v1/models` and `GET /v1/models/{id}`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::Dialect;

/// The list of models in a dialect, in the order given.
#[must_use]
pub fn models_answer<'a>(dialect: Dialect, names: impl IntoIterator<Item = &'a str>) -> Bytes {
    let models: Vec<Value> = names.into_iter().map(|name| model(dialect, name)).collect();
    let list = match dialect {
        Dialect::OpenAi => json!({"object": "list", "data": models}),
        Dialect::Anthropic => {
            let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
            let (first, last) = (id(models.first()), id(models.last()));
            json!({"data": models, "has_more": false, "first_id": first, "last_id": last})
        }
    };
    list.to_string().into()
}

/// One model in a dialect. That it exists, the caller has checked.
#[must_use]
pub fn model_answer(dialect: Dialect, name: &str) -> Bytes {
    model(dialect, name).to_string().into()
}

/// Nothing here knows when a model was made, so the times are the epoch.
fn model(dialect: Dialect, name: &str) -> Value {
    match dialect {
        Dialect::OpenAi => json!({"id": name, "object": "model", "created": 0, "owned_by": "tollgate"}),
        Dialect::Anthropic => {
            json!({"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_shape_of_its_dialect() {
        assert_eq!(
            models_answer(Dialect::OpenAi, ["m"]),
            r#"{"object":"list","data":[{"id":"m","object":"model","created":0,"owned_by":"tollgate"}]}"#
        );
        let anthropic: Value = serde_json::from_slice(&models_answer(Dialect::Anthropic, ["a", "b"])).unwrap();
        assert_eq!((&anthropic["first_id"], &anthropic["last_id"]), (&json!("a"), &json!("b")));
        assert_eq!(anthropic["data"][1]["type"], "model");
    }

    #[test]
    fn an_empty_list_is_still_a_list() {
        let empty = std::iter::empty::<&str>;
        assert_eq!(models_answer(Dialect::OpenAi, empty()), r#"{"object":"list","data":[]}"#);
        assert!(models_answer(Dialect::Anthropic, empty()).ends_with(br#""first_id":null,"last_id":null}"#));
    }
}
