//! OpenAI's embeddings.

use serde_json::{Value, json};

use crate::plan::Plan;

pub(super) fn answer(plan: &Plan) -> Value {
    let one = |index| json!({"object": "embedding", "index": index, "embedding": [0.25, -0.5, 0.125]});
    let data: Vec<Value> = (0..plan.inputs).map(one).collect();
    let mut answer = json!({"object": "list", "data": data, "model": plan.model});
    let claim = plan.claim();
    if !claim.is_missing() {
        answer["usage"] = json!({"prompt_tokens": claim.input(), "total_tokens": claim.input()});
    }
    answer
}
