use std::io::{self, BufReader};

use proptest::prelude::*;
use tollgate_model::{Currency, Money, Timestamp};
use tollgate_proto::state::v1::{LedgerCost, LedgerRow, PriceVersionRow, UsageSource};

use super::{bytes::Bytes, compare::*, csv::Csv, json::Json, line::Line};
use crate::export::Source;

const DAY: u64 = 24 * 3_600_000_000;
/// 2026-11-01.
const BEGIN: u64 = 1_793_491_200_000_000;

/// All lines of a file, read through a window of so many bytes.
fn lines(file: &[u8], window: usize) -> Result<Vec<Line>, ReconcileError> {
    let mut bytes = Bytes::new(BufReader::with_capacity(window, file))?;
    let mut all = Vec::new();
    if matches!(bytes.skip_space()?, Some(b'{' | b'[')) {
        let mut json = Json::new(bytes);
        while let Some(line) = json.next()? {
            all.push(line);
        }
    } else {
        let mut csv = Csv::open(bytes)?;
        while let Some(line) = csv.next()? {
            all.push(line);
        }
    }
    Ok(all)
}

fn wrong(file: &str) -> String {
    lines(file.as_bytes(), 64).unwrap_err().to_string()
}

/// Day, model, request, figures.
fn told(file: &str) -> Vec<(u64, String, String, [Option<u64>; 6])> {
    let lines = lines(file.as_bytes(), 7).unwrap();
    let day = |line: &Line| line.at.map_or(0, |at| (at.0 - BEGIN) / DAY);
    lines.into_iter().map(|line| (day(&line), line.model, line.request.unwrap_or_default(), line.figures)).collect()
}

const OPENAI: &str = r#"{"object": "page", "data": [
  {"object": "bucket", "start_time": 1793491200, "end_time": 1793577600, "results": [
    {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500,
     "input_cached_tokens": 800, "input_audio_tokens": 0, "num_model_requests": 5, "project_id": null,
     "model": "gpt-4o-2024-08-06", "batch": false},
    {"input_tokens": 7, "output_tokens": 1, "num_model_requests": 1, "model": "gpt-4o-mini"}]},
  {"start_time": 1793577600, "results": []}], "has_more": true, "next_page": "AAAA"}
{"object": "page", "data": [{"start_time": 1793577600, "results": [{"input_tokens": 2, "model": "gpt-4o"}]}]}"#;

const ANTHROPIC: &str = r#"{"data": [{"starting_at": "2026-11-02T00:00:00Z", "ending_at": "2026-11-03T00:00:00Z", "results": [
  {"uncached_input_tokens": 1500, "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
   "cache_read_input_tokens": 200, "output_tokens": 50, "server_tool_use": {"web_search_requests": 10},
   "api_key_id": null, "model": "claude-opus-4-20250514", "service_tier": "standard", "context_window": "0-200k"}]}],
  "has_more": false, "next_page": null}"#;

#[test]
fn the_reports_of_openai_and_anthropic_are_read_as_they_come() {
    let figures = |it: [u64; 5]| [Some(it[0]), Some(it[1]), Some(it[2]), None, Some(it[3]), None];
    assert_eq!(
        told(OPENAI),
        [
            (0, "gpt-4o".to_owned(), String::new(), figures([5, 1000, 800, 500, 0])),
            (0, "gpt-4o-mini".to_owned(), String::new(), [Some(1), Some(7), None, None, Some(1), None]),
            (1, "gpt-4o".to_owned(), String::new(), [None, Some(2), None, None, None, None]),
        ]
    );
    let all = [None, Some(3_200), Some(200), Some(1_500), Some(50), None];
    assert_eq!(told(ANTHROPIC), [(1, "claude-opus-4".to_owned(), String::new(), all)]);
}

#[test]
fn a_report_whose_last_page_says_that_there_is_another_is_not_whole() {
    let (first, rest) = OPENAI.split_once("\n{\"object\": \"page\"").unwrap();
    let says = "line 7, field `has_more`: is true in the last page, so the report is not whole";
    assert!(wrong(first).starts_with(says), "{}", wrong(first));
    let second = format!("{{\"object\": \"page\"{rest}");
    assert_eq!(told(&format!("[{first},\n{second}]")).len(), 3, "pages in a list, too");
    assert!(wrong(&format!("[{second},\n{first}]")).contains("field `has_more`: is true in the last page"));
    // Wherever in the page it stands.
    let line = "{\"date\": \"2026-11-01\", \"model\": \"m\", \"input_tokens\": 1}";
    for more in ["true", "false"] {
        let page = format!("{{\"has_more\": {more}, \"data\": [{line}]}}");
        assert_eq!(lines(page.as_bytes(), 64).is_err(), more == "true");
    }
}

#[test]
fn columns_are_known_by_their_names_however_they_are_written() {
    let expected = [
        (0, "m".to_owned(), String::new(), [Some(2), Some(10), None, None, Some(3), None]),
        (1, "a,\"b\nc".to_owned(), String::new(), [Some(1), Some(4), None, None, None, None]),
    ];
    let csv = "\u{feff}Date,MODEL, Input Tokens ,output-tokens,num_model_requests,note\r\n\
               2026-11-01,m,10,3,2,\r\n\r\n2026-11-02T08:00:00Z,\"a,\"\"b\nc\",4,,1";
    assert_eq!(told(csv), expected);
    let jsonl = r#"{"date":"2026-11-01","model":"m","inputTokens":10,"output_tokens":"3","requests":2,"x":[1,{"y":null}]}
        {"date":"2026-11-02","model":"a,\"b\nc","prompt_tokens":4,"requests":1}"#;
    assert_eq!(told(jsonl), expected);
    assert_eq!(told(&format!("[{}]", jsonl.replace("}\n", "},\n"))), expected);
    let by_request = "request_id,model,provider_model,input_tokens\nr-1,asked,served,5\n";
    assert_eq!(told(by_request), [(0, "served".to_owned(), "r-1".to_owned(), [None, Some(5), None, None, None, None])]);
}

#[test]
fn what_is_wrong_with_a_file_is_named_with_its_line_and_field() {
    for (file, told) in [
        ("", "line 1, field `header`: is missing"),
        ("date,model\n2026-11-01,m", "line 1, field `header`: names no column of requests"),
        ("date,model,input_tokens\n2026-11-01,m,-1", "line 2, field `input_tokens`: `-1` is no whole number"),
        ("date,model,input_tokens\n2026-11-01,m,1.5", "line 2, field `input_tokens`: `1.5` is no whole number"),
        ("date,model,input_tokens\n\n2026-11-01,m,1e3", "line 3, field `input_tokens`: `1e3` is no whole number"),
        ("date,model,input_tokens\n2026-11-01,m,99999999999999999999", "is more than there can be"),
        ("date,model,input_tokens\nsoon,m,1", "line 2, field `date`: `soon` is no day"),
        ("date,model,input_tokens\n,m,1", "line 2, field `date`: is missing"),
        ("date,model,input_tokens\n2026-11-01,,1", "line 2, field `model`: is missing: take the report by model"),
        ("date,model,input_tokens\n2026-11-01,m,1,9", "line 2, field `column 4`: is not in the header"),
        ("date,model,input_tokens\n2026-11-01,\"m,1", "line 2, field `model`: has a quote that is not closed"),
        ("date,model,input_tokens\n2026-11-01,\"m\"x,1", "line 2, field `model`: goes on behind its closing quote"),
        ("date,model,input_tokens,prompt_tokens\n2026-11-01,m,1,1", "line 2, field `prompt_tokens`: is given twice"),
        ("date,model,cost\n2026-11-01,m,1", "line 2, field `currency`: is missing"),
        ("date,model,cost,currency\n2026-11-01,m,1,dollars", "line 2, field `currency`: `DOLLARS` is not a currency"),
        ("date,model,cost,currency\n2026-11-01,m,1.0000000000001,USD", "line 2, field `cost`: "),
        ("[{\"date\":\"2026-11-01\",\n\"input_tokens\":1}]", "line 2, field `model`: is missing"),
        ("{\"model\": null, \"date\": \"2026-11-01\", \"input_tokens\": 1}", "line 1, field `model`: is missing"),
        ("{\"input_tokens\": x}", "line 1, field `input_tokens`: is no JSON"),
        ("{\"input_tokens\" 1}", "line 1, field `input_tokens`: is no JSON: there should be a :"),
        ("{\"a\": 1,}", "is no JSON: there should be a \""),
        ("[1\n2]", "line 2, field `value`: is no JSON: there should be a ,"),
        ("{\"a\": [", "line 1, field `a`: ends before it is closed"),
        ("{\"a\": \"\\x\"}", "line 1, field `a`: is no JSON: an escape"),
        (
            "{\"results\": [{\"model\": \"m\", \"input_tokens\": 1}], \"start_time\": 1}",
            "field `date`: is missing, before what",
        ),
    ] {
        let said = wrong(file);
        assert!(said.contains(told) && said.starts_with("line "), "{file:?}: {said}");
    }
    assert!(wrong(&"[".repeat(40)).contains("is within more than 32 others"));
    assert!(wrong(&format!("{{\"{}\": 1}}", "a".repeat(5_000))).contains("has more than 4096 bytes"));
    assert!(
        wrong(&format!("{{\"a\": {}}}", "1".repeat(5_000))).contains("line 1, field `a`: has more than 4096 bytes")
    );
    assert!(
        wrong(&format!("input_tokens\n{}", "1".repeat(5_000))).contains("line 2, field `input_tokens`: has more than")
    );
    assert!(wrong(&"input_tokens,".repeat(300)).contains("field `column 257`: is one column more than 256"));
    let error = lines(b"date,model,input_tokens\n2026-11-01,\xff,1", 64).unwrap_err().to_string();
    assert_eq!(error, "line 2, field `model`: is not UTF-8");
}

fn samples() -> Vec<Vec<u8>> {
    let csv = "request_id,time,model,input_tokens,output_tokens,cost,currency\r\nr-1,2026-11-01,\"m\"\"x\",1,2,0.5,USD\r\nr-2,1793491200,n,3,4,1,EUR\r\n";
    let jsonl = "{\"date\":\"2026-11-01\",\"model\":\"m\\u00fc\\ud83d\\ude00\",\"input_tokens\":10}\n{\"date\":\"2026-11-02\",\"model\":\"n\",\"cost\":\"1.5\",\"currency\":\"usd\"}";
    [OPENAI, ANTHROPIC, csv, jsonl].map(|text| text.as_bytes().to_vec()).to_vec()
}

fn text_of_a_csv(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Nothing in a file is believed: whatever is done to its bytes, it is read or refused by line and field.
    #[test]
    fn no_bytes_do_any_harm(
        sample in 0..4usize,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..12),
        window in 1..80usize,
    ) {
        let mut file = samples()[sample].clone();
        for (at, byte, how) in cuts {
            let at = at.index(file.len().max(1)).min(file.len().saturating_sub(1));
            match how {
                _ if file.is_empty() => file.push(byte),
                0 => file[at] = byte,
                1 => file.insert(at, byte),
                2 => drop(file.remove(at)),
                _ => file.truncate(at),
            }
        }
        let read = lines(&file, window);
        if let Err(error) = &read {
            let ReconcileError::File(error) = error else { panic!("{error:?}") };
            let last = file.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            prop_assert!((1..=last).contains(&error.line), "{}", error);
            prop_assert!(!error.why.is_empty() && error.field.chars().count() <= 64);
        }
        // However it is cut into pieces on its way.
        prop_assert_eq!(format!("{:?}", lines(&file, 1_000)), format!("{read:?}"));
    }

    #[test]
    fn any_bytes_are_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..200), window in 1..20usize) {
        let _ = lines(&file, window);
        let _ = lines(&[b"[", &*file].concat(), window);
        let _ = lines(&[b"model,input_tokens,date\n", &*file].concat(), window);
    }

    #[test]
    fn the_same_lines_are_read_from_every_format(
        said in prop::collection::vec((0..9u64, "[a-z\"\\\\,\n\u{e9}\u{1f600}]{1,6}", any::<u32>(), any::<u64>()), 1..20)
    ) {
        let mut csv = "day,model,requests,output_tokens\n".to_owned();
        let (mut jsonl, mut buckets) = (String::new(), Vec::new());
        for (day, model, requests, output) in &said {
            let model = format!("x{model}x");
            let at = Timestamp(BEGIN + day * DAY);
            csv += &format!("{at},{},{requests},{output}\n", text_of_a_csv(&model));
            jsonl += &serde_json::json!({"day": at.to_string(), "model": model, "requests": requests, "output_tokens": output}).to_string();
            let result = serde_json::json!({"model": model, "requests": requests, "output_tokens": output});
            buckets.push(format!("{{\"start_time\":{},\"results\":[{result}]}}", at.0 / 1_000_000));
        }
        let page = format!("{{\"data\":[{}]}}", buckets.join(","));
        let read = |file: &str| -> Vec<_> {
            lines(file.as_bytes(), 16).unwrap().into_iter().map(|line| Line { line: 0, ..line }).collect()
        };
        let expected = read(&csv);
        prop_assert_eq!(expected.len(), said.len());
        for (line, (day, model, requests, output)) in expected.iter().zip(&said) {
            prop_assert_eq!(line.at, Some(Timestamp(BEGIN + day * DAY)));
            prop_assert_eq!(&line.model, &format!("x{model}x"));
            prop_assert_eq!((line.figures[0], line.figures[4]), (Some(u64::from(*requests)), Some(*output)));
        }
        prop_assert_eq!(&read(&jsonl), &expected);
        prop_assert_eq!(&read(&page), &expected);
    }
}

/// A ledger in memory.
struct Ledger(Vec<LedgerRow>);

impl Source for Ledger {
    fn last(&self) -> u64 {
        self.0.last().map_or(0, |row| row.seq)
    }

    fn before(&self, settled: Timestamp) -> io::Result<u64> {
        let earlier = self.0.partition_point(|row| row.settled_us < settled.0);
        Ok(earlier.checked_sub(1).map_or(0, |at| self.0[at].seq))
    }

    fn rows(&self, after_seq: u64, most: usize) -> io::Result<Vec<LedgerRow>> {
        Ok(self.0.iter().filter(|row| row.seq > after_seq).take(most).cloned().collect())
    }

    fn price(&self, name: &str, version: u64) -> io::Result<Option<PriceVersionRow>> {
        let metadata = tollgate_proto::v1::Metadata {
            name: name.to_owned(),
            resource_version: Some(version),
            ..Default::default()
        };
        let spec = tollgate_proto::v1::PriceSpec {
            currency: "USD".into(),
            per: Some(1),
            output: "0.01".into(),
            table: "cost".into(),
            ..Default::default()
        };
        let (api_version, kind) = ("tollgate/v1".into(), "Price".into());
        let price = tollgate_proto::v1::Price { api_version, kind, metadata: Some(metadata), spec: Some(spec) };
        Ok(Some(PriceVersionRow { price: Some(price), ..PriceVersionRow::default() }))
    }
}

/// Answered by `mock`, at so much a token of output.
fn row(n: u64, at: u64, model: &str, (input, output): (u64, u64)) -> LedgerRow {
    let amount = i128::from(output) * (Money::ONE.0 / 100);
    let own = LedgerCost {
        price: "c".into(),
        price_version: 3,
        currency: "USD".into(),
        amount: amount.to_be_bytes().to_vec(),
        ..LedgerCost::default()
    };
    LedgerRow {
        seq: n << 16,
        request_id: format!("r-{n}"),
        admitted_us: at,
        settled_us: at + 1,
        provider: "mock".into(),
        provider_model: model.into(),
        usage_source: UsageSource::Provider.into(),
        input_tokens: input,
        output_tokens: output,
        costs: vec![own],
        ..LedgerRow::default()
    }
}

/// Before it, `first` was asked, and did not answer.
fn after_a_failure(row: LedgerRow) -> LedgerRow {
    let earlier = LedgerCost {
        provider: "first".into(),
        provider_model: "m".into(),
        usage_source: UsageSource::Counted.into(),
        input_tokens: 5,
        input_at_most: 9,
        output_at_most: 200,
        price: "c".into(),
        price_version: 3,
        currency: "USD".into(),
        ..LedgerCost::default()
    };
    LedgerRow { costs: [vec![earlier], row.costs.clone()].concat(), ..row }
}

fn compare(ledger: &Ledger, file: &str, asked: Asked) -> Result<Reconciled, ReconcileError> {
    let mut reconciler = Reconciler::new(asked)?;
    reconciler.read(file.as_bytes())?;
    reconciler.compare(ledger, &|| false)
}

fn of(provider: &str) -> Asked {
    Asked { provider: Some(provider.into()), ..Asked::default() }
}

/// Model or request, figure, ours and theirs.
fn said(done: &Reconciled) -> Vec<(String, &'static str, String, String)> {
    let named = |it: &Difference| if it.request.is_empty() { it.model.clone() } else { it.request.clone() };
    done.differences.iter().map(|it| (named(it), it.figure, it.ours.clone(), it.theirs.clone())).collect()
}

fn ledger() -> Ledger {
    Ledger(vec![
        row(1, BEGIN - 1, "m", (1, 1)),
        row(2, BEGIN, "m", (10, 3)),
        after_a_failure(row(3, BEGIN + 5, "m-2026-01-01", (20, 4))),
        row(4, BEGIN + DAY - 1, "n", (7, 7)),
        row(5, BEGIN + DAY, "m", (1, 1)),
    ])
}

#[test]
fn a_day_agrees_or_the_figure_that_does_not_is_named() {
    let file = "date,model,requests,input_tokens,output_tokens,cost,currency\n\
                2026-11-01,m-2026-05-05,2,30,7,0.07,USD\n2026-11-01,n,1,7,7,0.07,USD\n";
    let done = compare(&ledger(), file, of("mock")).unwrap();
    assert_eq!((said(&done), done.lines, done.attempts), (vec![], 2, 3));
    assert_eq!((done.from, done.to, done.next.as_str()), (Timestamp(BEGIN), Timestamp(BEGIN + DAY), ""));

    let one_more = file.replace("30,7,0.07", "31,7,0.08");
    let done = compare(&ledger(), &one_more, of("mock")).unwrap();
    let m = |figure, ours: &str, theirs: &str| ("m".to_owned(), figure, ours.to_owned(), theirs.to_owned());
    assert_eq!(said(&done), [m("input_tokens", "30", "31"), m("cost", "0.07", "0.08")]);
    assert_eq!(
        (done.differences[1].currency, done.differences[1].day),
        (Currency::parse("USD").ok(), Some(Timestamp(BEGIN)))
    );
    assert_eq!(done.differences[0].within, None);

    let less = file.lines().take(2).collect::<Vec<_>>().join("\n");
    let done = compare(&ledger(), &less, of("mock")).unwrap();
    assert_eq!(
        said(&done).iter().map(|it| (it.0.as_str(), it.1)).collect::<Vec<_>>(),
        ["requests", "input_tokens", "output_tokens", "cost"].map(|it| ("n", it))
    );

    let euros = file.replace("0.07,USD\n2", "0.07,EUR\n2");
    let done = compare(&ledger(), &euros, of("mock")).unwrap();
    assert_eq!(said(&done), [m("cost", "0", "0.07"), m("cost", "0.07", "0")], "no currency stands for another");
}

/// The upstream did not say what it billed: anything that it can have been agrees, and nothing beyond.
#[test]
fn an_attempt_without_an_answer_agrees_up_to_its_bound() {
    let file = |requests: u64, input: u64, output: u64, cost: &str| {
        format!(
            "date,model,requests,input_tokens,output_tokens,cost,currency\n2026-11-01,m,{requests},{input},{output},{cost},USD\n"
        )
    };
    for file in [file(1, 9, 200, "2"), file(0, 0, 0, "0"), file(1, 5, 16, "0.16")] {
        assert_eq!(said(&compare(&ledger(), &file, of("first")).unwrap()), [], "{file}");
    }
    let done = compare(&ledger(), &file(2, 10, 201, "2.01"), of("first")).unwrap();
    let figures: Vec<_> = done.differences.iter().map(|it| (it.figure, it.within.clone().unwrap())).collect();
    let within = |figure, most: &str| (figure, ("0".to_owned(), most.to_owned()));
    let expected =
        [within("requests", "1"), within("input_tokens", "9"), within("output_tokens", "200"), within("cost", "2")];
    assert_eq!(figures, expected);
}

#[test]
fn a_file_that_names_requests_is_compared_by_them_whatever_its_clock_says() {
    let file = "request_id,time,model,input_tokens,output_tokens\nr-4,2026-11-02,n,7,7\nr-1,2026-11-01,m,1,1\nr-3,2026-11-01,m,20,5\nr-9,2026-11-01,m,1,1\n";
    let done = compare(&ledger(), file, of("mock")).unwrap();
    let line = |request: &str, figure, ours: &str, theirs: &str| {
        (request.to_owned(), figure, ours.to_owned(), theirs.to_owned())
    };
    let expected = [
        line("r-2", "input_tokens", "10", "0"),
        line("r-2", "output_tokens", "3", "0"),
        line("r-3", "output_tokens", "4", "5"),
        line("r-5", "input_tokens", "1", "0"),
        line("r-5", "output_tokens", "1", "0"),
        line("r-9", "input_tokens", "0", "1"),
        line("r-9", "output_tokens", "0", "1"),
    ];
    assert_eq!(said(&done), expected);
    assert_eq!(done.differences[0].day, None);
    let mixed = "request_id,time,model,input_tokens\nr-4,2026-11-01,n,7\n,2026-11-01,n,7\n";
    let error = compare(&ledger(), mixed, of("mock")).unwrap_err().to_string();
    assert!(error.starts_with("line 3, field `request_id`: is missing"), "{error}");
}

#[test]
fn lines_of_other_providers_and_other_times_are_passed_over() {
    let file = "date,provider,model,input_tokens\n2026-11-01,mock,m,30\n2026-11-01,first,m,99\n2026-11-01,mock,n,7\n2026-11-02,mock,m,77\n";
    let asked = Asked { from: Some(Timestamp(BEGIN)), to: Some(Timestamp(BEGIN + DAY)), ..of("mock") };
    assert_eq!(said(&compare(&ledger(), file, asked).unwrap()), []);
    let inverted = Asked { from: Some(Timestamp(2)), to: Some(Timestamp(1)), ..Asked::default() };
    assert!(compare(&ledger(), file, inverted).unwrap_err().to_string().starts_with("from: "));
    let typed = Asked { after: "x".into(), ..Asked::default() };
    assert!(compare(&ledger(), file, typed).unwrap_err().to_string().starts_with("after: "));
    let stopped = Reconciler::new(of("mock")).unwrap().compare(&ledger(), &|| true).unwrap_err();
    assert!(matches!(stopped, ReconcileError::Source(error) if error.kind() == io::ErrorKind::Interrupted));
}

proptest! {
    /// With room for few, the passes together say what one with room for all says.
    #[test]
    fn any_number_of_passes_says_what_one_says(
        ours in prop::collection::vec((0..40u64, 0..3u64), 0..40),
        theirs in prop::collection::vec((0..40u64, 0..3u64), 1..40),
        keys in 1..20usize,
        most in 1..9usize,
    ) {
        let rows = ours.iter().enumerate().map(|(n, (model, tokens))| row(n as u64 + 1, BEGIN, &format!("m{model}"), (*tokens, 0)));
        let ledger = Ledger(rows.collect());
        let mut file = "date,model,input_tokens\n".to_owned();
        theirs.iter().for_each(|(model, tokens)| file += &format!("2026-11-01,m{model},{tokens}\n"));
        let pass = |after: &str, keys, most| {
            let asked = Asked { after: after.to_owned(), ..Asked::default() };
            let mut reconciler = Reconciler::with_room(asked, keys, most).unwrap();
            reconciler.read(file.as_bytes()).unwrap();
            reconciler.compare(&ledger, &|| false).unwrap()
        };
        let whole = pass("", 1_000, 1_000);
        let (mut parts, mut after) = (Vec::new(), String::new());
        loop {
            let part = pass(&after, keys, most);
            parts.extend(part.differences);
            if part.next.is_empty() {
                break;
            }
            prop_assert_ne!(&part.next, &after, "it goes on");
            after = part.next;
        }
        prop_assert_eq!(parts, whole.differences);
        prop_assert_eq!(whole.next, "");
    }
}
