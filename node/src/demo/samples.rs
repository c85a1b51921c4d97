//! The sample resources of the demo: one route over two providers, two tenants with a consumer each, a generous limit.

use std::net::SocketAddr;

/// The tenant that pays in advance, and what it has paid: more than anybody tries out.
pub(super) const PREPAID: &str = "acme";
pub(super) const CREDIT: &str = "1000000";

/// What the sample resources are filled in with.
pub(super) struct Samples<'a> {
    pub(super) providers: [SocketAddr; 2],
    pub(super) alice_key: &'a str,
    pub(super) bob_key: &'a str,
}

impl Samples<'_> {
    /// The resources as a user would write them.
    pub(super) fn yaml(&self) -> String {
        let Samples { providers: [a, b], alice_key, bob_key } = self;
        format!(
            r#"apiVersion: tollgate/v1
kind: Provider
metadata: {{name: mock-a}}
spec:
  type: openai
  endpoints: [{{url: "http://{a}/v1", zone: az-a}}]
  keys: [{{value: "sk-mock-a"}}]
---
apiVersion: tollgate/v1
kind: Provider
metadata: {{name: mock-b}}
spec:
  type: openai
  endpoints: [{{url: "http://{b}/v1", zone: az-b}}]
  keys: [{{value: "sk-mock-b"}}]
---
apiVersion: tollgate/v1
kind: Route
metadata: {{name: chat}}
spec:
  match: [{{path: {{prefix: /v1}}}}]
  backends:
    - {{provider: mock-a, weight: 1}}
  fallbacks:
    - {{provider: mock-b, on: [connectFailure, reset, timeout, "5xx", "429"]}}
  tokens: {{default: 1024, max: 32768}}
---
apiVersion: tollgate/v1
kind: Tenant
metadata: {{name: acme}}
spec:
  billing: {{mode: prepaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Tenant
metadata: {{name: globex}}
spec:
  billing: {{mode: postpaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Consumer
metadata: {{name: alice}}
spec:
  tenant: acme
  credentials: [{{apiKey: "{alice_key}"}}]
---
apiVersion: tollgate/v1
kind: Consumer
metadata: {{name: bob}}
spec:
  tenant: globex
  credentials: [{{apiKey: "{bob_key}"}}]
---
apiVersion: tollgate/v1
kind: Limit
metadata: {{name: per-consumer-tpm}}
spec:
  per: [consumer]
  unit: tokens
  limit: 10000000
  window: 1m
---
apiVersion: tollgate/v1
kind: Price
metadata: {{name: mock-1}}
spec:
  match: {{models: ["mock-1"]}}
  currency: USD
  per: 1000000
  input: "0.15"
  output: "0.60"
---
apiVersion: tollgate/v1
kind: Price
metadata: {{name: mock-2}}
spec:
  match: {{models: ["mock-2"]}}
  currency: USD
  per: 1000000
  input: "2.50"
  cachedInput: "1.25"
  output: "10.00"
"#
        )
    }
}
