//! What upstreams bill: a cost for each attempt, in its own currency, that agrees with what they say themselves.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use tollgate_chaos_tests::{
    Cli, Cluster, Outcome, Provider, Run,
    calls::Call,
    client::LIMIT,
    day_with_room, eventually,
    resources::{self, api_key, document},
};
use tollgate_mock_llm::Options;

/// Calls that the first provider answers, and those that it works out and that nobody waits for.
const ANSWERED: usize = 12;
const TIMED_OUT: usize = 3;
const RANGE: [&str; 4] = ["--from", "2026-01-01", "--to", "2999-01-01"];

/// A tenant that pays in dollars; the first provider bills in euros, the second in dollars.
async fn with_prices(cluster: &Cluster) -> anyhow::Result<(Provider, Provider)> {
    let (first, second) = (Provider::start(Options::default()).await?, Provider::start(Options::default()).await?);
    let mut yaml = resources::provider("first", "openai", &first.url());
    yaml += &resources::provider("second", "openai", &second.url());
    let more = ", fallbacks: [{provider: second, on: [timeout]}], timeouts: {firstByte: 1s}";
    yaml += &resources::route("chat", "[{provider: first}]", more);
    yaml += &document("Tenant", "acme", "{billing: {mode: postpaid, currency: USD}}");
    yaml += &resources::consumer("alice", "acme");
    yaml += &document("Price", "list", "{currency: USD, per: 1, input: 3, output: 7}");
    let cost = |provider: &str, currency: &str| {
        let figures = "per: 1, input: 1, output: 2";
        format!(
            "{{table: cost, currency: {currency}, match: {{providers: [{provider}], models: ['mock-*']}}, {figures}}}"
        )
    };
    yaml += &document("Price", "first-cost", &cost("first", "EUR"));
    yaml += &document("Price", "second-cost", &cost("second", "USD"));
    cluster.cli().apply_and_wait(&yaml).await?;
    Ok((first, second))
}

/// Whole answers and streams of both dialects, refusals, and answers that come too late. The last of these that the second answered.
async fn calls(cluster: &Cluster, first: &Provider) -> anyhow::Result<String> {
    let (key, origins) = (api_key("alice"), cluster.origins());
    for n in 0..ANSWERED {
        let call = match n % 4 {
            0 => Call::chat(&key, "mock-1"),
            1 => Call::messages(&key, "mock-2"),
            2 => Call::chat(&key, "mock-1").stream(),
            _ => Call::chat(&key, "mock-1-429"),
        };
        let origin = &origins[n % origins.len()];
        if call.is_stream() {
            cluster.client.open(call.request(origin), LIMIT).await?.rest().await;
        } else {
            let answer = cluster.client.send(call.request(origin), LIMIT).await?;
            assert_eq!(answer.status, if n % 4 == 3 { 429 } else { 200 }, "{}", answer.text());
        }
    }
    first.turn(&[("delay", "30s")]).await?;
    let mut request = String::new();
    for n in 0..TIMED_OUT {
        let call = Call::chat(&key, "mock-1");
        let answer = cluster.client.send(call.request(&origins[n % origins.len()]), LIMIT).await?;
        assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, "second"), "{}", answer.text());
        request = answer.header("x-request-id").to_owned();
    }
    first.settled().await?;
    Ok(request)
}

async fn costs(cli: &Cli) -> anyhow::Result<Vec<Value>> {
    let asked = ["billing", "export", "--format", "jsonl", "--schema", "cost"];
    let run = cli.run(&[&asked[..], &RANGE].concat()).await?.ok()?;
    Ok(run.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

async fn reconcile(cli: &Cli, provider: &str, file: &Path) -> anyhow::Result<Run> {
    let path = file.to_string_lossy();
    cli.run(&["billing", "reconcile", "--provider", provider, "--provider-file", &path, "-o", "json"]).await
}

#[tokio::test]
async fn what_upstreams_bill_is_in_the_ledger_attempt_by_attempt_and_agrees_with_their_own_figures() -> Outcome {
    day_with_room(Duration::from_secs(120)).await;
    let cluster = Cluster::start().await?;
    let (first, second) = with_prices(&cluster).await?;
    let fallen_back = calls(&cluster, &first).await?;
    let (dir, cli) = (tempfile::tempdir()?, cluster.cli());

    // Of each request that a provider worked for one, and one more of each that came too late.
    let refused = ANSWERED / 4;
    let attempts = ANSWERED - refused + 2 * TIMED_OUT;
    eventually("every attempt is in the ledger of every node", || async {
        for node in [1, 2, 3] {
            let found = costs(&cluster.cli_of(node)).await?.len();
            anyhow::ensure!(found == attempts, "node {node}: {found} of {attempts}");
        }
        Ok(())
    })
    .await?;
    let all = costs(&cli).await?;
    let in_euros = all.iter().filter(|it| it["currency"] == "EUR").count();
    assert_eq!((in_euros, all.len() - in_euros), (ANSWERED - refused + TIMED_OUT, TIMED_OUT));
    for node in [1, 2, 3] {
        let verified = cluster.cli_of(node).rows(&["ledger", "verify"]).await?;
        assert_eq!(verified[0]["ok"], true, "{verified:?}");
        let owed = |it: &&Value| it["account"] == "upstream:second:owed" && it["currency"] == "USD";
        let balances = verified[0]["balances"].as_array().cloned().unwrap_or_default();
        assert_eq!(balances.iter().filter(owed).count(), 1, "{balances:?}");
    }

    // What the providers bill by their own counters, by request and by day.
    for (provider, name) in [(&first, "first"), (&second, "second")] {
        for by_day in [false, true] {
            let file = dir.path().join(format!("{name}-{by_day}.json"));
            fs::write(&file, provider.usage(by_day).await?.to_string())?;
            let run = reconcile(&cli, name, &file).await?;
            assert_eq!((run.code, run.stdout.trim()), (0, "[]"), "{name} {by_day}: {run:?}");
            assert!(run.stderr.contains("all agrees"), "{run:?}");
        }
    }

    // One figure of one request, and of one day, is another.
    let mut file = second.usage(false).await?;
    let (changed, right) = (file[1]["request_id"].clone(), file[1]["output_tokens"].as_u64().unwrap_or_default());
    file[1]["output_tokens"] = (right + 1).into();
    let path = dir.path().join("changed.json");
    fs::write(&path, file.to_string())?;
    let run = reconcile(&cli, "second", &path).await?;
    assert_eq!(run.code, 1, "{run:?}");
    let told: Vec<Value> = serde_json::from_str(&run.stdout)?;
    let [difference] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (&difference["requestId"], difference["figure"].as_str()),
        (&changed, Some("output_tokens")),
        "{difference}"
    );
    assert_eq!((difference["ours"].as_u64(), difference["theirs"].as_u64()), (Some(right), Some(right + 1)));

    // More than all that it can have been, where it did not say what it was.
    let mut file = first.usage(true).await?;
    let results = file["data"][0]["results"].as_array_mut().expect("a day with results");
    let of_model = results.iter_mut().find(|it| it["model"] == "mock-1").expect("it was called");
    of_model["input_tokens"] = 1_000_000.into();
    fs::write(&path, file.to_string())?;
    let table = ["billing", "reconcile", "--provider", "first", "--provider-file", &path.to_string_lossy()];
    let run = cli.run(&table).await?;
    assert!(run.code == 1 && run.stdout.contains("input_tokens") && run.stdout.contains("1000000"), "{run:?}");
    assert_eq!(run.stdout.lines().count(), 2, "a head and one difference: {run:?}");

    // A file that is none.
    fs::write(&path, "date,model,input_tokens\n2026-11-01,mock-1,many\n")?;
    let run = reconcile(&cli, "first", &path).await?;
    assert!(run.code == 1 && run.stderr.contains("line 2, field `input_tokens`: `many` is no whole number"), "{run:?}");

    a_tenant_is_not_told(&cli, &cluster, &fallen_back).await?;
    Ok(())
}

/// One request that two upstreams bill: all of it for us, and its own part for its tenant.
async fn a_tenant_is_not_told(cli: &Cli, cluster: &Cluster, request: &str) -> anyhow::Result<()> {
    let shown = cli.rows(&["ledger", "show", request]).await?.remove(0);
    let costs = shown["costs"].as_array().cloned().unwrap_or_default();
    let told: Vec<_> =
        costs.iter().map(|it| (it["provider"].as_str(), it["outcome"].as_str(), it["currency"].as_str())).collect();
    let expected = [(Some("first"), Some("unanswered"), Some("EUR")), (Some("second"), Some("settled"), Some("USD"))];
    assert_eq!(told, expected, "{shown}");
    assert!(costs.iter().all(|it| it["lines"].as_array().is_some_and(|lines| !lines.is_empty())), "{shown}");
    assert!(costs[0]["output_at_most"].as_u64() > costs[0]["output_tokens"].as_u64(), "{shown}");
    assert!(shown["margin"].is_null(), "there is none of two currencies: {shown}");
    assert_eq!(shown["moves"].as_array().map(Vec::len), Some(6), "{shown}");

    let made = cli.run(&["token", "create", "--role", "billing", "--tenant", "acme"]).await?.ok()?;
    let narrowed = Cli { admin: cluster.cli().admin, token: made.stdout.trim().to_owned() };
    let shown = eventually("the token is known everywhere", || async {
        Ok(narrowed.rows(&["ledger", "show", request]).await?.remove(0))
    })
    .await?;
    assert_eq!(
        (shown["costs"].as_array().map(Vec::len), shown["moves"].as_array().map(Vec::len)),
        (Some(0), Some(2)),
        "{shown}"
    );
    let asked = ["billing", "export", "--format", "jsonl", "--schema", "cost"];
    let run = narrowed.run(&[&asked[..], &RANGE].concat()).await?;
    assert!(run.code == 1 && run.stderr.contains("what upstreams bill is not its"), "{run:?}");
    for (schema, column) in [("summary", "provider_cost"), ("focus", "x_ProviderCost")] {
        let asked = ["billing", "export", "--format", "jsonl", "--schema", schema];
        let of = async |cli: &Cli| anyhow::Ok(cli.run(&[&asked[..], &RANGE].concat()).await?.ok()?.stdout);
        let has = |text: &str| {
            text.lines().any(|line| serde_json::from_str::<Value>(line).is_ok_and(|it| !it[column].is_null()))
        };
        assert!(has(&of(cli).await?) && !has(&of(&narrowed).await?), "{schema}");
    }
    Ok(())
}
