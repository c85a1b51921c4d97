//! The cases.

use tollgate_chaos_tests::{Outcome, burst::Manner, calls::Call};

use super::{Between, Case, Scene, play_all, prompt};

/// The usual prompt is four words and one message.
const PROMPT: u64 = 5;
/// Words of the long prompts.
const WORDS: usize = 400;
/// Output tokens of the long answers.
const LONG: u64 = 20_000;

/// Answers of 500 tokens, as the caller allows.
fn plain(call: Call) -> Call {
    call.max_tokens(500).header("x-mock-output", "500").header("x-mock-delay", "200ms")
}

fn streamed(call: Call) -> Call {
    call.stream()
        .max_tokens(500)
        .header("x-mock-output", "500")
        .header("x-mock-chunk", "50")
        .header("x-mock-pace", "20ms")
}

/// No bound named: the route's default of 600 is, and the provider goes up to it.
fn unbounded(mut call: Call) -> Call {
    call.body.as_object_mut().expect("a call is an object").remove("max_tokens");
    call.header("x-mock-output", "5000").header("x-mock-delay", "200ms")
}

/// Each character a token: who counts four characters a token is wrong by half, and by more in bytes of UTF-8.
fn chinese(call: Call) -> Call {
    let text: Vec<String> =
        "请把下面的合同逐条翻译成英文并指出风险".chars().cycle().take(WORDS).map(String::from).collect();
    prompt(call, &text.join(" ")).header("x-mock-delay", "200ms")
}

fn code(call: Call) -> Call {
    let text: Vec<&str> = "{ ( x ) => y ; } [ 0 ] = a < b ? c : d ;".split(' ').cycle().take(WORDS).collect();
    prompt(call, &text.join(" ")).header("x-mock-delay", "200ms")
}

fn no_usage(call: Call) -> Call {
    plain(call).header("x-mock-usage", "missing")
}

fn no_usage_streamed(call: Call) -> Call {
    streamed(call).header("x-mock-usage", "missing")
}

fn no_usage_chinese(call: Call) -> Call {
    chinese(call).header("x-mock-usage", "missing")
}

fn no_usage_code(call: Call) -> Call {
    code(call).header("x-mock-usage", "missing")
}

/// As a provider that writes faster than anybody reads.
fn streamed_at_once(call: Call) -> Call {
    call.stream().max_tokens(500).header("x-mock-output", "500")
}

/// Far longer than what is read of an answer that is left: what it is charged is not what it has reserved.
fn long(call: Call) -> Call {
    call.stream()
        .max_tokens(LONG)
        .header("x-mock-output", &LONG.to_string())
        .header("x-mock-chunk", "10")
        .header("x-mock-pace", "5ms")
}

fn long_at_once(call: Call) -> Call {
    call.stream().max_tokens(LONG).header("x-mock-output", &LONG.to_string())
}

fn case(name: &'static str, model: &'static str, call: fn(Call) -> Call, tokens: u64) -> Case {
    let (manner, between) = (Manner::Stays, Between::Nothing);
    Case { name, model, limit: 10_000, bursts: 1, manner, between, call, tokens }
}

#[tokio::test]
async fn bursts_of_whole_answers_and_of_streams_are_never_over() -> Outcome {
    play_all(&[
        case("plain", "plain-1", plain, PROMPT + 500),
        case("streamed", "streamed-1", streamed, PROMPT + 500),
        case("no max_tokens, long answers", "unbounded-1", unbounded, PROMPT + 600),
        case("a prompt in Chinese", "chinese-1", chinese, 417),
        case("a prompt in Chinese, known vocabulary", "gpt-4o-chinese", chinese, 417),
        case("a prompt of code", "code-1", code, 417),
        case("a prompt of code, known vocabulary", "gpt-4o-code", code, 417),
    ])
    .await
}

#[tokio::test]
async fn answers_without_a_usage_block_are_never_over() -> Outcome {
    play_all(&[
        case("no usage block", "nobody-1", no_usage, PROMPT + 500),
        case("no usage block, streamed", "nobody-2", no_usage_streamed, PROMPT + 500),
        repeated(case("no usage block, a prompt in Chinese", "nobody-3", no_usage_chinese, 417)),
        repeated(case("no usage block, a prompt of code, known vocabulary", "gpt-4o-nobody", no_usage_code, 417)),
    ])
    .await
}

/// Where nobody says what was used, a limit may be charged what it probably was only if that is the most that it can
/// have been: four bytes a token is half of what code has.
#[tokio::test]
async fn a_prompt_of_code_without_a_usage_block_is_never_over() -> Outcome {
    play_all(&[repeated(case("no usage block, a prompt of code", "nobody-4", no_usage_code, 417))]).await
}

/// What a call gave back too much shows when others have spent it.
fn repeated(case: Case) -> Case {
    Case { bursts: 6, ..case }
}

fn leaving(name: &'static str, model: &'static str, call: fn(Call) -> Call) -> Case {
    Case { bursts: 3, manner: Manner::LeavesAtFirstByte, ..case(name, model, call, PROMPT + 500) }
}

fn leaving_long(name: &'static str, model: &'static str, call: fn(Call) -> Call) -> Case {
    Case { limit: 20 * LONG, tokens: PROMPT + LONG, ..leaving(name, model, call) }
}

/// The provider has written more by the time it sees that nobody reads than the gateway has read when the caller leaves.
#[tokio::test]
async fn callers_who_leave_at_the_first_byte_are_never_over() -> Outcome {
    play_all(&[
        leaving("left at the first byte, three bursts", "leaving-1", streamed),
        leaving("left at the first byte, fast answers", "leaving-2", streamed_at_once),
        leaving_long("left at the first byte, long answers", "leaving-3", long),
        leaving_long("left at the first byte, long and fast answers", "leaving-4", long_at_once),
        leaving_long("left at the first byte, long answers, known vocabulary", "gpt-4o-leaving-1", long),
    ])
    .await
}

/// Counted by the vocabulary there is no slack that makes up for what is in the buffers still.
#[tokio::test]
async fn callers_who_leave_a_provider_that_is_faster_than_the_gateway_are_never_over() -> Outcome {
    let name = "left at the first byte, fast answers, known vocabulary";
    play_all(&[leaving_long(name, "gpt-4o-leaving-2", long_at_once)]).await
}

#[tokio::test]
async fn a_leader_killed_between_two_bursts_forgets_nothing() -> Outcome {
    let usual = case("leader killed between two bursts", "killed-1", plain, PROMPT + 500);
    play_all(&[Case { bursts: 2, between: Between::LeaderKilled, ..usual }]).await
}

#[tokio::test]
async fn all_nodes_killed_between_two_bursts_forget_nothing() -> Outcome {
    let usual = case("all nodes killed between two bursts", "killed-2", plain, PROMPT + 500);
    play_all(&[Case { bursts: 2, between: Between::AllKilled, ..usual }]).await
}

/// Every call had ended when the nodes were killed, some of them only just.
#[tokio::test]
async fn after_all_nodes_were_killed_what_is_charged_is_what_was_served() -> Outcome {
    let usual = case("all nodes killed, exactly", "killed-3", plain, PROMPT + 500);
    let mut scene = Scene::set().await?;
    let found = scene.play(&Case { bursts: 2, between: Between::AllKilled, ..usual }).await?;
    found.must_hold()?;
    Ok(scene.charges_exactly(usual.model, found.witnessed).await?)
}
