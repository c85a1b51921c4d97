//! `reasoning_effort` → thinking.
//!
//! Anthropic's models since 4.6 choose by themselves how much to think, within an effort; the earlier ones take a
//! budget of tokens, below `max_tokens`.

use serde_json::{Map, Value, json};

use crate::error::RequestError;

/// The least that Anthropic takes for a budget.
const LEAST_BUDGET: u64 = 1_024;

pub(super) fn translate(
    effort: Option<&str>,
    model: &str,
    max_tokens: u64,
    continues_tools: bool,
    to: &mut Map<String, Value>,
) -> Result<(), RequestError> {
    let Some(effort) = effort else { return Ok(()) };
    let (effort, percent) = match effort {
        "none" | "minimal" => {
            to.insert("thinking".into(), json!({"type": "disabled"}));
            return Ok(());
        }
        "low" => ("low", 20),
        "medium" => ("medium", 50),
        "high" => ("high", 80),
        "xhigh" => ("xhigh", 90),
        _ => return Err(refuse("must be none, minimal, low, medium, high or xhigh")),
    };
    if !takes_a_budget(model) {
        to.insert("thinking".into(), json!({"type": "adaptive"}));
        let config = to.entry("output_config").or_insert_with(|| json!({}));
        config["effort"] = effort.into();
        return Ok(());
    }
    if continues_tools {
        // These models refuse to think on about a tool's result without the (signed) thoughts that asked for it,
        // which the caller's dialect can't carry: this turn goes on as it would without the hint.
        return Ok(());
    }
    if max_tokens <= LEAST_BUDGET {
        return Err(refuse("needs a bound of more than 1024 output tokens for this model"));
    }
    let budget = (max_tokens / 100 * percent).clamp(LEAST_BUDGET, max_tokens - 1);
    to.insert("thinking".into(), json!({"type": "enabled", "budget_tokens": budget}));
    Ok(())
}

fn refuse(why: &str) -> RequestError {
    RequestError::field("reasoning_effort", format!("reasoning_effort {why}"))
}

/// Whether the model, by its name, is of a generation before 4.6.
fn takes_a_budget(model: &str) -> bool {
    let old = ["claude-2", "claude-3", "-4-0", "-4-1", "-4-2025", "-4-5"];
    old.iter().any(|mark| model.contains(mark)) || model.ends_with("-4")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(effort: &str, model: &str, max_tokens: u64) -> Result<Value, RequestError> {
        let mut to = Map::new();
        translate(Some(effort), model, max_tokens, false, &mut to).map(|()| Value::Object(to))
    }

    #[test]
    fn later_models_get_an_effort_and_earlier_ones_a_budget() {
        let adaptive = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}});
        assert_eq!(translated("high", "claude-opus-4-7", 100).unwrap(), adaptive);
        let budget = json!({"thinking": {"type": "enabled", "budget_tokens": 2_000}});
        assert_eq!(translated("medium", "claude-sonnet-4-5-20250929", 4_000).unwrap(), budget);
        let least = json!({"thinking": {"type": "enabled", "budget_tokens": 1_024}});
        assert_eq!(translated("low", "claude-opus-4-20250514", 1_100).unwrap(), least);
    }

    #[test]
    fn what_leaves_no_room_to_think_is_refused() {
        let refused = translated("low", "claude-sonnet-4-5", 1_024).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("reasoning_effort"));
        assert!(translated("huge", "claude-opus-4-7", 9_000).is_err());
    }
}
