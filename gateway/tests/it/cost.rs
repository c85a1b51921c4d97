//! Limits on what calls cost: what is held for them is the dearest that they can come to, what is charged is their bill.

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    ai::{completion, provider, two},
    clients::{call, post_text, read_until},
    cluster::{Cluster, until},
    growing::{self, EVERY, TEXT},
    upstream::{Reply, Upstream, answer, events, json as json_answer},
};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;
/// Pico-units for one token each.
const INPUT: u64 = 1_000_000_000;
const OUTPUT: u64 = 10_000_000_000;
const DOLLAR: u64 = 1_000_000_000_000;

/// A thousandth of a dollar for each token in, a hundredth for each token out.
const PRICE: &str = "kind: Price\nmetadata: {name: all}\nspec: {currency: USD, input: 1000, output: 10000}\n";
const PAYS: &str = "kind: Tenant\nmetadata: {name: acme}\nspec: {billing: {mode: postpaid, currency: USD}}\n---\n";

fn budget(name: &str, spec: &str) -> String {
    format!("---\nkind: Limit\nmetadata: {{name: {name}}}\nspec: {{unit: cost, window: 1h, {spec}}}\n")
}

/// A cluster whose caller pays.
async fn paying(resources: &str, budgets: &str) -> Cluster {
    let cluster = Cluster::start(resources).await;
    cluster.apply(&format!("{PAYS}{PRICE}{budgets}"));
    cluster
}

#[tokio::test]
async fn the_log_is_told_how_a_request_is_paid_for_with_what_it_holds() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let cluster =
        paying(&provider(&upstream, "openai"), &budget("budget", "per: [consumer], limit: 100, durability: quorum"))
            .await;
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
    let told = |cluster: &Cluster| cluster.held_for().iter().map(|it| it.prepaid).collect::<Vec<_>>();
    assert_eq!(told(&cluster), [false]);
    cluster.fund("acme", 10 * DOLLAR);
    cluster.apply(&PAYS.replace("postpaid", "prepaid"));
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
    assert_eq!(told(&cluster), [false, true]);
    cluster.settled(2).await;
    cluster.nothing_held().await;
}

fn bill(input: u64, output: u64) -> u64 {
    input * INPUT + output * OUTPUT
}

/// What is used, held, and over.
fn stands(cluster: &Cluster, limit: &str) -> (u64, u64, u64) {
    cluster.accounts(limit).first().map_or((0, 0, 0), |it| (it.used, it.held, it.overrun))
}

#[tokio::test]
async fn a_call_is_held_for_at_its_worst_and_charged_what_it_is_billed() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let cluster = paying(&provider(&upstream, "openai"), &budget("budget", "per: [consumer], limit: '1.20'")).await;
    let first = call(cluster.address, CHAT, BODY).await;
    assert_eq!(first.status, 200, "{}", first.raw);
    // It is no limit of tokens, and its figures are no tokens.
    assert!(!first.head.contains("x-ratelimit-"), "{}", first.raw);
    assert_eq!(first.header("ratelimit-policy"), Some("\"budget\";q=1200000;w=3600;qu=\"micro-USD\""));
    let left = first.header("ratelimit").unwrap();
    let left: u64 = left.strip_prefix("\"budget\";r=").and_then(|it| it.split(';').next()?.parse().ok()).unwrap();
    assert!((100_000..200_000).contains(&left), "a hundred tokens and a prompt are held for: {left}");

    assert_eq!(cluster.settled(1).await[0].usage.cost, bill(7, 5));
    cluster.nothing_held().await;
    assert_eq!(stands(&cluster, "budget"), (bill(7, 5), 0, 0));
    let mut used = bill(7, 5);
    loop {
        let next = call(cluster.address, CHAT, BODY).await;
        if next.status != 200 {
            assert_eq!((next.status, next.code().as_str()), (429, "rate_limit_exceeded"), "{}", next.raw);
            let message = next.json()["error"]["message"].as_str().unwrap().to_owned();
            let left = tollgate_model::Money((12 * DOLLAR / 10 - used).into());
            assert_eq!(message, format!("Limit `budget` is exhausted: {left} of 1.2 USD are left."));
            assert!(next.header("retry-after").is_some(), "{}", next.raw);
            break;
        }
        used += bill(7, 5);
        until("it is charged", || stands(&cluster, "budget") == (used, 0, 0)).await;
    }
    assert!(used > bill(7, 5), "there was money for more than one");

    let dear = BODY.replace("100", "1000");
    let never = call(cluster.address, CHAT, &dear).await;
    assert_eq!((never.status, never.code().as_str()), (400, "request_exceeds_limit"), "{}", never.raw);
    let message = never.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Limit `budget` holds 1.2 USD in all, and this request alone needs 10.0"), "{message}");
}

#[tokio::test]
async fn whoever_serves_the_dearest_was_held_for_and_the_bill_is_charged() {
    let (busy, fine) = (Reply::Keep(answer(429, "", "{}")), Reply::Keep(json_answer(&completion(7, 5))));
    let (first, second) = (Upstream::always(busy).await, Upstream::always(fine).await);
    let dear = "---\nkind: Price\nmetadata: {name: dear}\nspec: {match: {providers: [second]}, currency: USD, input: 3000, output: 30000}\n";
    // The first alone would fit; the fallback does not.
    for (limit, status) in [("2.50", 400), ("3.50", 200)] {
        let budget = budget("budget", &format!("limit: '{limit}'"));
        let cluster = paying(&two(&first, &second, "openai", "'429'"), &(dear.to_owned() + &budget)).await;
        let answer = call(cluster.address, CHAT, BODY).await;
        assert_eq!(answer.status, status, "{}", answer.raw);
        cluster.nothing_held().await;
        let used = if status == 200 { 3 * bill(7, 5) } else { 0 };
        until("the fallback's price is charged", || stands(&cluster, "budget") == (used, 0, 0)).await;
    }
}

/// What an attempt without an answer may have used is charged in tokens, and billed to nobody.
#[tokio::test]
async fn an_attempt_that_is_not_billed_costs_nothing() {
    let (silent, fine) = (Reply::Hang(String::new()), Reply::Keep(json_answer(&completion(7, 5))));
    let (first, second) = (Upstream::always(silent).await, Upstream::always(fine).await);
    let tokens = "---\nkind: Limit\nmetadata: {name: out}\nspec: {unit: outputTokens, limit: 1000, window: 1h}\n";
    let budgets = budget("budget", "limit: 5") + tokens;
    let cluster = paying(&two(&first, &second, "openai", "timeout"), &budgets).await;
    let answer = call(cluster.address, CHAT, BODY).await;
    assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some("second")), "{}", answer.raw);
    until("both attempts are charged", || stands(&cluster, "out") == (105, 0, 0)).await;
    until("the bill is charged", || stands(&cluster, "budget") == (bill(7, 5), 0, 0)).await;
}

#[tokio::test]
async fn what_is_billed_in_another_currency_or_not_at_all_is_not_counted() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let euros = budget("euros", "limit: '0.01', currency: EUR");
    let cluster = paying(&provider(&upstream, "openai"), &(budget("dollars", "limit: 100") + &euros)).await;
    let alice = call(cluster.address, CHAT, BODY).await;
    assert_eq!(alice.status, 200, "{}", alice.raw);
    assert!(alice.head.contains("\"dollars\"") && !alice.head.contains("\"euros\""), "{}", alice.head);
    let of_bob = post_text(CHAT, "authorization: Bearer sk-bobby\r\n", BODY);
    let bob = crate::clients::raw(cluster.address, &of_bob).await;
    assert_eq!((bob.status, bob.header("ratelimit")), (200, None), "{}", bob.raw);
    // Of euros there is no price: that costs nothing, and is not refused.
    cluster.apply("kind: Tenant\nmetadata: {name: globex}\nspec: {billing: {mode: postpaid, currency: EUR}}\n");
    let bob = crate::clients::raw(cluster.address, &of_bob).await;
    assert!(bob.status == 200 && bob.head.contains("\"euros\"") && !bob.head.contains("\"dollars\""), "{}", bob.raw);
    let costs: Vec<u64> = cluster.settled(3).await.iter().map(|it| it.usage.cost).collect();
    assert_eq!(costs, [bill(7, 5), 0, 0]);
    cluster.nothing_held().await;
    assert_eq!((stands(&cluster, "dollars"), stands(&cluster, "euros").0), ((bill(7, 5), 0, 0), 0));
}

#[tokio::test]
async fn a_shadow_budget_counts_and_one_that_reserves_the_prompt_is_over_by_the_rest() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 150)))).await;
    let trial = budget("trial", "limit: 1, mode: shadow");
    let prompts = budget("prompts", "limit: 1, reserve: prompt");
    let cluster = paying(&provider(&upstream, "openai"), &(trial + &prompts)).await;
    let generous = BODY.replace("100", "100000");
    let first = call(cluster.address, CHAT, &generous).await;
    assert_eq!(first.status, 200, "{}", first.raw);
    cluster.settled(1).await;
    until("all of it is counted", || {
        let (used, held, overrun) = stands(&cluster, "prompts");
        (used + overrun, held) == (bill(7, 150), 0) && overrun > 0
    })
    .await;
    assert_eq!(stands(&cluster, "trial").0, bill(7, 150));
    let metrics = cluster.metrics();
    assert!(metrics.contains("limit=\"trial\",decision=\"shadow_refused\"} 1"), "{metrics}");
    assert_eq!(call(cluster.address, CHAT, &generous).await.status, 429, "it is over");
}

#[tokio::test]
async fn a_stream_is_given_the_output_that_there_is_money_for() {
    let upstream = Upstream::start(|_| {
        let word = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"length"}]}"#;
        let usage = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":300,"total_tokens":307}}"#;
        let (word, usage) = (format!("{word}\n\n"), format!("{usage}\n\n"));
        Reply::Close(events(&[&word, &usage, "data: [DONE]\n\n"]) + "0\r\n\r\n")
    })
    .await;
    let cluster = paying(&provider(&upstream, "openai"), &budget("budget", "limit: 6")).await;
    let body = |most: u64| {
        json!({"model": "m", "stream": true, "max_tokens": most, "messages": [{"role": "user", "content": "hi"}]})
            .to_string()
    };
    assert_eq!(call(cluster.address, CHAT, &body(300)).await.status, 200);
    until("it is charged", || stands(&cluster, "budget") == (bill(7, 300), 0, 0)).await;
    let fitted = call(cluster.address, CHAT, &body(500)).await;
    assert_eq!(fitted.status, 200, "{}", fitted.raw);
    let most: u64 = fitted.header("x-tollgate-max-tokens").unwrap().parse().unwrap();
    // What is left pays for them and a prompt, and not for one more.
    let left = 6 * DOLLAR - bill(7, 300);
    assert!(most * OUTPUT < left && left - most * OUTPUT < OUTPUT + 100 * INPUT, "{most} of {left}");
    assert!(upstream.requests()[1].contains(&format!("\"max_tokens\":{most}")), "{}", upstream.requests()[1]);
    until("nothing is held", || stands(&cluster, "budget").1 == 0).await;
}

/// Streams whose hold grows: the money is held part by part, and charged once.
async fn growing(limit: &str) -> (Upstream, Cluster, u64) {
    let upstream = growing::upstream(EVERY).await;
    let cluster = paying(&growing::limited(&upstream, 1_000_000), &budget("budget", limit)).await;
    growing::show(&cluster).await;
    let used = bill(7, 5 * growing::TELLING as u64);
    until("it is charged", || stands(&cluster, "budget") == (used, 0, 0)).await;
    (upstream, cluster, used)
}

#[tokio::test]
async fn a_stream_holds_more_money_as_it_goes_by_the_price_that_it_began_with() {
    let (_upstream, cluster, used) = growing("limit: 200").await;
    let mut caller = growing::open(&cluster, 200).await;
    read_until(&mut caller, "twenty bytes").await;
    until("what is held is told", || stands(&cluster, "budget").1 > 512 * OUTPUT).await;
    let first = stands(&cluster, "budget").1;
    assert!(first < growing::BOUND / 2 * OUTPUT, "{first} held");
    // What costs more from now on does not for those who were admitted before.
    cluster.apply(&PRICE.replace("1000", "5000"));
    until("more is held", || stands(&cluster, "budget").1 >= first + 512 * OUTPUT).await;
    assert_eq!((stands(&cluster, "budget").1 - first) % (512 * OUTPUT), 0, "by the old price");
    read_until(&mut caller, "[DONE]").await;
    assert_eq!(cluster.settled(2).await[1].usage.cost, bill(7, 1_000));
    until("all is charged", || stands(&cluster, "budget") == (used + bill(7, 1_000), 0, 0)).await;
}

#[tokio::test]
async fn a_stream_ends_where_there_is_no_money_for_more() {
    let (upstream, cluster, used) = growing("limit: 45").await;
    // What is left is held by a call that does not end, but for what such an answer and some hundred tokens cost.
    let filler = growing::open_filler(&cluster, (45 * DOLLAR - used) / OUTPUT - 2_000).await;
    let mut caller = growing::open(&cluster, 400).await;
    let body = read_until(&mut caller, "[DONE]").await;
    assert!(body.contains("\"finish_reason\":\"length\"") && body.matches(TEXT).count() > 10, "{body}");
    drop((caller, filler));
    let costs: Vec<u64> = cluster.settled(3).await.iter().map(|it| it.usage.cost).collect();
    cluster.nothing_held().await;
    until("the bills are charged", || stands(&cluster, "budget") == (costs.iter().sum(), 0, 0)).await;
    assert!(costs.iter().sum::<u64>() <= 45 * DOLLAR, "{costs:?}");
    until("the providers are let go", || upstream.open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_is_charged_what_it_is_billed() {
    let (_upstream, cluster, used) = growing("limit: 200").await;
    let mut caller = TcpStream::connect(cluster.address).await.unwrap();
    let body = growing::body(400, growing::BOUND);
    caller.write_all(post_text(CHAT, "authorization: Bearer sk-alice\r\n", &body).as_bytes()).await.unwrap();
    read_until(&mut caller, "twenty bytes").await;
    drop(caller);
    let settled = cluster.settled(2).await;
    let usage = settled[1].usage;
    assert_eq!(usage.cost, bill(usage.input_tokens, usage.output_tokens), "{usage:?}");
    until("it is charged", || stands(&cluster, "budget") == (used + usage.cost, 0, 0)).await;
}
