//! Every request to an upstream is part of a trace: the caller's, or one that begins here.

use std::collections::BTreeSet;

use tollgate_gateway::{AccessLog, AccessLogField};

use crate::{
    ai::{completion, provider},
    balancing::{ROUTE, service},
    clients::{call, get},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The values of a header, in their order.
fn values<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// Trace, span and flags of the one `traceparent` that there is.
fn parent(request: &str) -> (&str, &str, &str) {
    let [value] = values(request, "traceparent")[..] else { panic!("{request}") };
    let fields: Vec<&str> = value.split('-').collect();
    let ["00", id, span, flags] = fields[..] else { panic!("{value}") };
    assert_eq!((id.len(), span.len(), flags.len()), (32, 16, 2), "{value}");
    (id, span, flags)
}

#[tokio::test]
async fn a_callers_trace_goes_on_with_our_span_in_it() {
    let upstreams = [Upstream::always(Reply::Keep(answer(200, "", "fine"))).await];
    let cluster = Cluster::start(&(service(&upstreams, &[], "protocol: http") + ROUTE)).await;
    for (version, flags, sent_flags) in [("00", "01", "01"), ("00", "00", "00"), ("cc", "09", "01")] {
        let more = if version == "00" { "" } else { "-more" };
        let said =
            format!("traceparent: {version}-{ID}-{PARENT}-{flags}{more}\r\ntracestate: a=1\r\nTraceState: b=2\r\n");
        get(cluster.address, "/", &said).await;
        let requests = upstreams[0].requests();
        let request = requests.last().unwrap();
        let (id, span, flags) = parent(request);
        assert_eq!((id, flags, values(request, "tracestate")), (ID, sent_flags, vec!["a=1,b=2"]));
        assert_ne!(span, PARENT);
    }
    let spans: BTreeSet<String> = upstreams[0].requests().iter().map(|it| parent(it).1.to_owned()).collect();
    assert_eq!(spans.len(), 3, "each its own");
}

#[tokio::test]
async fn who_names_no_trace_or_none_that_can_be_read_has_one_that_begins_here() {
    let upstreams = [Upstream::always(Reply::Keep(answer(200, "", "fine"))).await];
    let good = format!("traceparent: 00-{ID}-{PARENT}-01\r\n");
    let resources = service(&upstreams, &[], "protocol: http") + ROUTE;
    for (sample, sent_flags) in [(0.0, "00"), (1.0, "01")] {
        let cluster = Cluster::start_with(&resources, |config| config.trace_sample = sample).await;
        let two = format!("{good}{good}");
        for said in
            [String::new(), two, good.replace("-01", "-1"), good.replace("00-", "ff-"), good.replace("4b", "4B")]
        {
            get(cluster.address, "/", &(said.clone() + "tracestate: a=1\r\n")).await;
            let requests = upstreams[0].requests();
            let request = requests.last().unwrap();
            let (id, span, flags) = parent(request);
            assert_eq!((flags, values(request, "tracestate").len()), (sent_flags, 0), "{said}");
            assert!(id != ID && span != PARENT && !id.trim_matches('0').is_empty(), "{said}");
        }
    }
    let ids: BTreeSet<String> = upstreams[0].requests().iter().map(|it| parent(it).0.to_owned()).collect();
    assert_eq!(ids.len(), 10);
}

#[tokio::test]
async fn a_trace_is_in_the_access_log_whoever_began_it_and_goes_to_providers_too() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let log = AccessLog::open(&file, &[AccessLogField::Status, AccessLogField::TraceId], 1.0).unwrap();
    let cluster = Cluster::start_with(&provider(&upstream, "openai"), |config| config.access_log = Some(log)).await;
    let lines = || std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(call(cluster.address, "/v1/chat/completions", r#"{"model":"m","messages":[]}"#).await.status, 200);
    until("a line", || lines().len() == 1).await;
    let sent = parent(&upstream.requests()[0]).0.to_owned();
    assert_eq!(lines()[0], format!(r#"{{"status":200,"trace_id":"{sent}"}}"#));
    // What is refused is part of it as well.
    let refused = get(cluster.address, "/v1/chat/completions", &format!("traceparent: 00-{ID}-{PARENT}-01\r\n")).await;
    until("another", || lines().len() == 2).await;
    assert_eq!(lines()[1], format!(r#"{{"status":{},"trace_id":"{ID}"}}"#, refused.status));
    assert_eq!(upstream.requests().len(), 1);
}

/// All that is sent for one request is one span, and what a route takes away stays away.
#[tokio::test]
async fn a_request_that_is_sent_again_is_the_same_span_and_a_route_may_say_nothing_of_it() {
    let upstreams = [Upstream::always(Reply::Keep(answer(503, "", ""))).await];
    let resources = service(&upstreams, &[], "protocol: http") + ROUTE;
    let retried = resources.replace("backends", "retries: {attempts: 1, on: ['503']}, backends");
    let cluster = Cluster::start(&retried).await;
    get(cluster.address, "/", "").await;
    let requests = upstreams[0].requests();
    assert_eq!((requests.len(), parent(&requests[0])), (2, parent(&requests[1])));
    let silent = ROUTE.trim_start_matches("---\n");
    cluster.apply(&silent.replace("backends", "requestHeaders: {remove: [traceparent]}, backends"));
    get(cluster.address, "/", "").await;
    assert!(values(&upstreams[0].requests()[2], "traceparent").is_empty());
}
