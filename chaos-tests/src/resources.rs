//! Resources as YAML, a document each; join them for one apply.

/// A provider that speaks `dialect` (`openai`, `anthropic`) at `url`.
pub fn provider(name: &str, dialect: &str, url: &str) -> String {
    document(
        "Provider",
        name,
        &format!("{{type: {dialect}, endpoints: [{{url: \"{url}\"}}], keys: [{{value: \"{}\"}}]}}", provider_key(name)),
    )
}

/// The key that [`provider`] gives to the provider of this name.
pub fn provider_key(name: &str) -> String {
    format!("sk-provider-{name}-0123456789")
}

/// A route for `/v1` with a flow-style list of backends, and more of the spec in flow style (`, fallbacks: […]`).
pub fn route(name: &str, backends: &str, more: &str) -> String {
    document("Route", name, &format!("{{match: [{{path: {{prefix: /v1}}}}], backends: {backends}{more}}}"))
}

/// A tenant.
pub fn tenant(name: &str) -> String {
    document("Tenant", name, "{billing: {mode: none}}")
}

/// A consumer with one key.
pub fn consumer(name: &str, tenant: &str) -> String {
    document("Consumer", name, &format!("{{tenant: {tenant}, credentials: [{{apiKey: \"{}\"}}]}}", api_key(name)))
}

/// The key that [`consumer`] gives to the consumer of this name.
pub fn api_key(consumer: &str) -> String {
    format!("sk-consumer-{consumer}-0123456789")
}

/// A limit of tokens a day for one consumer, exact in every class.
pub fn tokens_per_day(name: &str, consumer: &str, tokens: u64) -> String {
    document(
        "Limit",
        name,
        &format!(
            "{{match: {{consumers: [{consumer}]}}, per: [consumer], unit: tokens, limit: {tokens}, window: 1d, algorithm: fixed}}"
        ),
    )
}

/// One resource with its spec in flow style.
pub fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: tollgate/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// What most tests begin with: one OpenAI provider `mock` behind the route `chat`, and for each consumer, of the tenant
/// `acme`, its tokens a day, if it has a limit.
pub fn standard(provider_url: &str, consumers: &[(&str, Option<u64>)]) -> String {
    let mut yaml = provider("mock", "openai", provider_url);
    yaml += &route("chat", "[{provider: mock}]", "");
    yaml += &tenant("acme");
    for (name, limit) in consumers {
        yaml += &consumer(name, "acme");
        if let Some(tokens) = limit {
            yaml += &tokens_per_day(&format!("{name}-tokens"), name, *tokens);
        }
    }
    yaml
}
