//! Recorded exchanges: `tests/golden/<caller's dialect>/<case>/`.
//!
//! Given: `case.json` (path, the provider's dialect and model, a bound to set), `client.json` (what the caller sends)
//! and `answer.json` or `stream.sse` (what the provider says). Written with `UPDATE_GOLDEN=1`, compared without:
//! `upstream.json` (what the provider is sent), `answer.client.json` or `stream.client.sse` (what the caller gets) and
//! `usage.json`. Bodies that were only spliced are kept as they are, translated ones are indented.

use std::path::{Path, PathBuf};
use std::{env, fs};

use bytes::Bytes;
use serde_json::{Value, json};
use tollgate_llm::{
    AiRequest, ApiError, Dialect, Emit, MaxTokens, Operation, StreamError, StreamRelay, Usage, code, translate_answer,
};

const CREATED: u64 = 1_750_000_000;

pub(crate) struct Case {
    directory: PathBuf,
    pub(crate) request: AiRequest,
    pub(crate) provider: Dialect,
    pub(crate) model: String,
    max_tokens: MaxTokens,
}

impl Case {
    pub(crate) fn all() -> Vec<Case> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut cases = Vec::new();
        for dialect in directories(&root) {
            cases.extend(directories(&dialect).into_iter().map(Case::open));
        }
        assert!(cases.len() > 10, "the recorded exchanges are there");
        cases
    }

    fn open(directory: PathBuf) -> Case {
        let case: Value = serde_json::from_slice(&fs::read(directory.join("case.json")).unwrap()).unwrap();
        let operation = Operation::from_path("POST", case["path"].as_str().unwrap()).unwrap();
        let body = fs::read(directory.join("client.json")).unwrap();
        Case {
            request: AiRequest::parse(operation, body.into()).unwrap(),
            provider: if case["provider"] == "openai" { Dialect::OpenAi } else { Dialect::Anthropic },
            model: case["model"].as_str().unwrap().to_owned(),
            max_tokens: case["maxTokens"].as_u64().map_or(MaxTokens::Keep, MaxTokens::Set),
            directory,
        }
    }

    pub(crate) fn name(&self) -> String {
        self.directory.display().to_string()
    }

    pub(crate) fn stream(&self) -> Option<Bytes> {
        fs::read(self.directory.join("stream.sse")).ok().map(Bytes::from)
    }

    /// Relays the chunks; what the caller has got in the end, an error event included.
    pub(crate) fn relay<'a>(&self, chunks: impl Iterator<Item = &'a [u8]>) -> (String, Usage) {
        let mut relay = StreamRelay::new(&self.request, self.provider, &self.model, MaxTokens::Keep, CREATED);
        let mut out = Vec::new();
        let run = || -> Result<(), StreamError> {
            for chunk in chunks {
                out.extend(relay.push(&Bytes::copy_from_slice(chunk))?.into_bytes());
            }
            out.extend(relay.finish()?.into_bytes());
            Ok(())
        };
        if run().is_err() {
            out.extend(relay.fail(&ApiError::new(502, code::UPSTREAM_ERROR, "the provider's stream broke off")));
        }
        (String::from_utf8_lossy(&out).into_owned(), relay.usage())
    }

    /// Relays the beginning of the stream and cuts it there; what the caller has got of it, the end that it was given, and
    /// what it was told to have used.
    pub(crate) fn cut(&self, beginning: &[u8]) -> (String, String, Usage) {
        let mut relay = StreamRelay::new(&self.request, self.provider, &self.model, MaxTokens::Keep, CREATED);
        let sent = relay.push(&Bytes::copy_from_slice(beginning)).map(Emit::into_bytes).unwrap_or_default();
        let error = ApiError::new(429, code::RATE_LIMIT_EXCEEDED, "the limit \"tpm\" holds no more");
        let end = relay.cut(&error);
        assert!(relay.cut(&error).is_empty() && relay.fail(&error).is_empty(), "it is told once");
        assert!(relay.push(&Bytes::from_static(b"data: {}\n\n")).unwrap().is_empty(), "nothing follows the end");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&sent), text(&end), relay.usage())
    }

    fn check(&self, name: &str, actual: &str) {
        let path = self.directory.join(name);
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, actual).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(actual, expected, "{} (UPDATE_GOLDEN=1 rewrites it)", path.display());
    }

    fn check_usage(&self, usage: Usage) {
        let usage = json!({
            "input": usage.input, "cachedInput": usage.cached_input, "cacheWrite": usage.cache_write,
            "output": usage.output, "reasoning": usage.reasoning, "source": usage.source.name(),
            "clamped": usage.clamped,
        });
        self.check("usage.json", &indented(&usage));
    }

    fn readable(&self, body: &[u8]) -> String {
        if self.provider == self.request.dialect() {
            return String::from_utf8(body.to_vec()).unwrap();
        }
        indented(&serde_json::from_slice(body).unwrap())
    }
}

fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

fn indented(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}

#[test]
fn streams_are_cut_as_recorded() {
    for case in Case::all() {
        let Some(stream) = case.stream() else { continue };
        let text = String::from_utf8(stream.to_vec()).unwrap();
        let ends: Vec<usize> = text.match_indices("\n\n").map(|(at, _)| at + 2).collect();
        let (_, end, _) = case.cut(&stream[..ends[ends.len() / 2]]);
        case.check("stream.cut.sse", &end);
    }
}

#[test]
fn requests_are_sent_as_recorded() {
    for case in Case::all() {
        let sent = case.request.for_provider(case.provider, &case.model, case.max_tokens).unwrap();
        case.check("upstream.json", &case.readable(&sent.body));
    }
}

#[test]
fn answers_are_brought_back_as_recorded() {
    for case in Case::all() {
        let Ok(body) = fs::read(case.directory.join("answer.json")) else { continue };
        let answer =
            translate_answer(&case.request, case.provider, &case.model, MaxTokens::Keep, CREATED, &body.into());
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        case.check("answer.client.json", &case.readable(&answer.body));
        case.check_usage(answer.usage);
    }
}

#[test]
fn streams_are_relayed_as_recorded() {
    for case in Case::all() {
        let Some(stream) = case.stream() else { continue };
        let (out, usage) = case.relay([&stream[..]].into_iter());
        case.check("stream.client.sse", &out);
        case.check_usage(usage);
    }
}

#[test]
fn the_input_bound_is_above_what_the_provider_reported() {
    for case in Case::all() {
        let Ok(usage) = fs::read(case.directory.join("usage.json")) else { continue };
        let usage: Value = serde_json::from_slice(&usage).unwrap();
        if usage["source"] == "provider" {
            let bound = case.request.input_bound(&case.model);
            assert!(bound >= usage["input"].as_u64().unwrap(), "{}: {bound}", case.name());
        }
    }
}
