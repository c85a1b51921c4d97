use std::path::{Path, PathBuf};

use super::*;

pub(crate) const GOOD: &str = r#"
[node]
id = 1
zone = "az-a"
data_dir = "data"
[http]
listen = "127.0.0.1:8080"
[admin]
listen = "127.0.0.1:9000"
[peer]
listen = "127.0.0.1:7000"
[peer.tls]
ca = "ca.pem"
cert = "node.pem"
key = "node.key"
[cluster]
bootstrap = ["1@127.0.0.1:7000", "2@127.0.0.1:7001"]
"#;

fn parse(text: &str, env: &[(&str, &str)]) -> Result<NodeConfig, Vec<String>> {
    let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    NodeConfig::parse(text, Path::new("/etc/tollgate"), env, false)
        .map_err(|problems| problems.iter().map(|p| p.display("node.toml").to_string()).collect())
}

#[test]
fn a_minimal_file_gets_the_documented_defaults() {
    let config = parse(GOOD, &[]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/etc/tollgate/data"));
    assert_eq!(config.peer_advertise, "127.0.0.1:7000");
    assert_eq!((config.drain_delay, config.drain_timeout), (DRAIN_DELAY, DRAIN_TIMEOUT));
    assert_eq!(config.log, "info");
    assert_eq!(config.members, Members::Bootstrap(vec![(1, "127.0.0.1:7000".into()), (2, "127.0.0.1:7001".into())]));
}

#[test]
fn the_environment_overrides_every_key_and_nothing_else() {
    let env = [
        ("TOLLGATE_NODE_ID", "2"),
        ("TOLLGATE_HTTP_TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.1"),
        ("TOLLGATE_DRAIN_DELAY", "250ms"),
        ("TOLLGATE_TOKEN", "not a key"),
        ("TOLLGATE_ADMIN", "http://127.0.0.1:1"),
    ];
    let config = parse(GOOD, &env).unwrap();
    assert_eq!(config.id, 2);
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.drain_delay, Duration::from_millis(250));
}

#[test]
fn a_network_that_says_another_than_was_meant_is_refused() {
    let env = [("TOLLGATE_HTTP_TRUSTED_PROXIES", "10.0.0.0/8, 203.0.113.5/24, 010.0.0.0/8, proxy")];
    let problems = parse(GOOD, &env).unwrap_err();
    for (problem, said) in problems.iter().zip([
        "'203.0.113.5/24' has bits set beyond its prefix: write 203.0.113.0/24 for the network",
        "'010.0.0.0/8' has a number with a leading zero: write 10.0.0.0/8",
        "'proxy' is no network: 10.0.0.0/8",
    ]) {
        assert!(problem.starts_with("TOLLGATE_HTTP_TRUSTED_PROXIES: http.trusted_proxies: "), "{problems:#?}");
        assert!(problem.contains(said), "{problems:#?}");
    }
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

#[test]
fn every_problem_is_reported_at_once_with_its_line() {
    let text = format!("{GOOD}[snapshot]\nlog_size = \"some\"\nkeep_entries = -1\n");
    let text = text.replace("id = 1", "id = 0").replace("zone = ", "zonne = ").replace("\"127.0.0.1:8080\"", "8080");
    let problems = parse(&text, &[("TOLLGATE_DRAIN_TIMEOUT", "soon")]).unwrap_err();
    assert!(problems[0].starts_with("node.toml:3:1: node.id: must be a whole number"), "{problems:#?}");
    assert!(
        problems[1].starts_with("node.toml:4:1: node.zonne: is not a key") && problems[1].contains("`node.zone`"),
        "{problems:#?}"
    );
    assert!(problems[2].starts_with("node.toml:7:1: http.listen: must be text in quotes"), "{problems:#?}");
    assert!(
        problems[3].contains("snapshot.log_size: ") && problems[4].contains("snapshot.keep_entries: "),
        "{problems:#?}"
    );
    assert!(problems[5].starts_with("TOLLGATE_DRAIN_TIMEOUT: drain.timeout: "), "{problems:#?}");
    assert!(problems[6].contains("node.zone: is missing"), "{problems:#?}");
}

#[test]
fn an_archive_is_read_alone_or_written_too_but_not_without_a_directory() {
    let ledger = |text: &str| parse(&format!("{GOOD}[ledger]\n{text}\n"), &[]);
    let config = ledger("archive = \"old\"").unwrap();
    assert_eq!((config.archive, config.archive_after), (Some(PathBuf::from("/etc/tollgate/old")), None));
    let config = ledger("archive = \"/mnt/old\"\narchive_after = \"90d\"").unwrap();
    assert_eq!(config.archive_after, Some(Duration::from_hours(90 * 24)));
    let problems = ledger("archive_after = \"90d\"").unwrap_err();
    assert!(problems[0].contains("ledger.archive_after: is given without ledger.archive"), "{problems:#?}");
    let problems = ledger("archive = \"\"\narchive_after = \"soon\"").unwrap_err();
    assert!(problems.iter().any(|it| it.contains("ledger.archive: is empty")), "{problems:#?}");
    assert!(problems.iter().any(|it| it.contains("ledger.archive_after: `soon` is not")), "{problems:#?}");
}

#[test]
fn name_servers_are_those_that_are_said_or_the_systems() {
    let dns = |text: &str| parse(&format!("{GOOD}[dns]\n{text}\n"), &[]);
    assert_eq!(parse(GOOD, &[]).unwrap().dns, DnsConfig::default());
    let said = dns("nameservers = [\"10.0.0.2\", \"[2001:db8::2]:5353\"]\ntimeout = \"500ms\"\nprefer = \"ipv6\"")
        .unwrap()
        .dns;
    let nameservers = ["10.0.0.2:53", "[2001:db8::2]:5353"].map(|it| it.parse().unwrap()).to_vec();
    let timeout = Some(Duration::from_millis(500));
    assert_eq!(said, DnsConfig { nameservers, timeout, prefer_ipv6: true });
    let env = [("TOLLGATE_DNS_NAMESERVERS", "10.0.0.2, 10.0.0.3:54")];
    assert_eq!(parse(GOOD, &env).unwrap().dns.nameservers.len(), 2);
    for (text, said) in [
        ("nameservers = [\"dns.test\"]", "dns.nameservers: 'dns.test' is no name server: write IP or IP:PORT"),
        ("nameservers = [\"0.0.0.0\"]", "dns.nameservers: '0.0.0.0' is no name server"),
        ("nameservers = \"10.0.0.2\"", "dns.nameservers: must be a list"),
        ("nameservers = [\"::1\", \"::2\", \"::3\", \"::4\"]", "dns.nameservers: names 4, more than 3"),
        ("timeout = \"2m\"", "dns.timeout: must be 10ms to 1m"),
        ("prefer = \"both\"", "dns.prefer: 'both' is none of ipv4, ipv6"),
    ] {
        let problems = dns(text).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(said), "{problems:#?}");
    }
}

#[test]
fn broken_syntax_is_located() {
    let problems = parse("[node\nid = 1", &[]).unwrap_err();
    assert!(problems[0].starts_with("node.toml:1:"), "{problems:#?}");
    assert!(!problems.iter().any(|problem| problem.contains("is missing")), "{problems:#?}");
    let broken = GOOD.replace("zone = \"az-a\"", "zone = \"az-a").replace("id = 1", "id = 0");
    let problems = parse(&broken, &[]).unwrap_err();
    assert!(problems.iter().any(|problem| problem.starts_with("node.toml:3:1: node.id: must be")), "{problems:#?}");
    assert!(!problems.iter().any(|problem| problem.contains("is missing")), "{problems:#?}");
}

#[test]
fn the_largest_node_id_is_the_one_that_the_admin_api_takes() {
    assert!(parse(&GOOD.replace("id = 1", "id = 4294967295").replace("\"1@", "\"4294967295@"), &[]).is_ok());
    let problems = parse(&GOOD.replace("id = 1", "id = 4294967296"), &[]).unwrap_err();
    assert!(problems[0].contains("must be a whole number from 1 to 4294967295"), "{problems:#?}");
}

#[test]
fn files_that_are_missing_or_of_no_use_are_reported_with_key_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, GOOD.to_owned() + "key_file = \"cluster.key\"\n").unwrap();
    std::fs::write(dir.path().join("ca.pem"), "").unwrap();
    std::fs::create_dir(dir.path().join("node.pem")).unwrap();
    std::fs::write(dir.path().join("cluster.key"), "too short").unwrap();
    let problems = NodeConfig::load(&file).unwrap_err();
    let told: Vec<_> = problems.iter().map(|problem| problem.display("node.toml").to_string()).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    for (problem, begins, says) in [
        (&told[0], "node.toml:14:1: peer.tls.cert: ", "is a directory"),
        (&told[1], "node.toml:15:1: peer.tls.key: ", "No such file"),
        (&told[2], "node.toml:18:1: cluster.key_file: ", "base64"),
    ] {
        assert!(problem.starts_with(begins) && problem.contains(says), "{told:#?}");
    }
}

#[test]
fn what_is_not_built_is_refused_and_not_ignored() {
    let problems = parse(&format!("{GOOD}[telemetry]\notlp = \"http://127.0.0.1:4317\"\n"), &[]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("telemetry.otlp: is not supported yet"), "{problems:#?}");
}

#[test]
fn an_unknown_section_is_named() {
    let problems = parse(&format!("{GOOD}[listener]\n"), &[]).unwrap_err();
    assert!(problems[0].contains("listener: is not a section"), "{problems:#?}");
}

#[test]
fn a_bootstrap_line_must_name_this_node_and_nobody_twice() {
    for (line, says) in [
        ("[\"2@127.0.0.1:7001\"]", "does not list this node, 1"),
        ("[\"1@127.0.0.1:7000\", \"1@127.0.0.1:7001\"]", "every first member once"),
        ("[\"1@127.0.0.1:7000\", \"2@127.0.0.1:7000\"]", "every first member once"),
        ("[\"one\"]", "'one' is not ID@HOST:PORT"),
        ("\"1@127.0.0.1:7000\"", "must be a list of text"),
    ] {
        let text = GOOD.replace("[\"1@127.0.0.1:7000\", \"2@127.0.0.1:7001\"]", line);
        let problems = parse(&text, &[]).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(says)), "{line}: {problems:#?}");
    }
}

#[test]
fn a_data_directory_that_can_be_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let told = |data_dir: &str| {
        let text = GOOD.replace("data_dir = \"data\"", &format!("data_dir = \"{data_dir}\""));
        let problems =
            NodeConfig::parse(&text, dir.path(), std::iter::empty(), true).expect_err("no certificate is there");
        let of_dir = problems.iter().find(|problem| problem.field == "node.data_dir");
        of_dir.map(|problem| problem.display("node.toml").to_string())
    };
    for wrong in ["file", "file/below", "/dev/null", "/dev/null/x", "/proc/x", "/sys/x/y"] {
        let problem = told(wrong).unwrap_or_else(|| panic!("{wrong} is fine"));
        assert!(problem.starts_with("node.toml:5:1: node.data_dir: "), "{problem}");
        assert!(problem.contains("is no directory") || problem.contains("nothing can be kept"), "{problem}");
    }
    for good in [".", "data", "a/b/c"] {
        assert_eq!(told(good), None, "{good}");
    }
}

#[test]
fn an_access_log_says_what_is_in_it_and_of_how_much() {
    let with = |lines: &str| parse(&format!("{GOOD}[access_log]\n{lines}\n"), &[]);
    let plan = with("file = \"a.log\"").unwrap().access_log.unwrap();
    assert_eq!((plan.file, plan.sample), (PathBuf::from("/etc/tollgate/a.log"), 1.0));
    assert_eq!(plan.fields, AccessLogField::ALL);
    let plan =
        with("file = \"/a.log\"\nsample = \"2.5%\"\nfields = [\"status\", \"path\"]").unwrap().access_log.unwrap();
    assert_eq!((plan.sample, plan.fields), (0.025, vec![AccessLogField::Status, AccessLogField::Path]));
    for (lines, said) in [
        ("sample = \"10%\"", "access_log.sample: is given without access_log.file"),
        ("file = \"a\"\nsample = \"110%\"", "access_log.sample: '110%' is no part: write it as \"10%\""),
        ("file = \"a\"\nsample = \"NaN%\"", "'NaN%' is no part"),
        ("file = \"a\"\nfields = [\"body\"]", "'body' is no field of the access log: they are time_ms, request_id"),
        ("file = \"a\"\nfields = [\"path\", \"path\"]", "'path' is named twice"),
        ("file = \"a\"\nfields = []", "names no field"),
    ] {
        let problems = with(lines).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(said), "{problems:#?}");
    }
}

#[test]
fn of_traces_that_begin_here_a_part_is_sampled_or_none() {
    let with = |lines: &str| parse(&format!("{GOOD}[telemetry]\n{lines}\n"), &[]);
    let sampled = |lines: &str| (with(lines).unwrap().trace_sample * 1_000.0).round();
    assert_eq!(
        (sampled(""), sampled("trace_sample = \"2.5%\""), sampled("trace_sample = \"100%\"")),
        (0.0, 25.0, 1_000.0)
    );
    let problems = with("trace_sample = \"0.5\"").unwrap_err();
    assert!(problems.len() == 1 && problems[0].contains("telemetry.trace_sample: '0.5' is no part"), "{problems:#?}");
}

#[test]
fn clients_over_tls_need_an_address_and_a_certificate_with_its_key_or_none() {
    let https = |text: &str| parse(&format!("{GOOD}[https]\n{text}\n"), &[]);
    let config = https("listen = \"0.0.0.0:8443\"").unwrap().https.unwrap();
    assert_eq!((config.listen.port(), config.files, config.proxy_protocol), (8443, None, false));
    let config = https("listen = \"0.0.0.0:8443\"\ncert = \"a.pem\"\nkey = \"a.key\"\nca = \"ca.pem\"").unwrap();
    let files = config.https.clone().unwrap().files.unwrap();
    assert_eq!(config.key_of(&files.key), Some("https.key"));
    assert_eq!(files.ca, Some(PathBuf::from("/etc/tollgate/ca.pem")));
    assert!(parse(GOOD, &[]).unwrap().https.is_none());
    for (text, says) in [
        ("listen = \"8443\"", "https.listen: '8443' is not an address"),
        ("cert = \"a.pem\"\nkey = \"a.key\"", "https.cert: is given without https.listen"),
        ("listen = \"0.0.0.0:8443\"\ncert = \"a.pem\"", "https.cert: is given without https.key"),
        ("listen = \"0.0.0.0:8443\"\nkey = \"a.key\"", "https.key: is given without https.cert"),
        ("listen = \"0.0.0.0:8443\"\nca = \"ca.pem\"", "https.ca: is given without https.cert"),
        ("listen = \"0.0.0.0:8443\"\nproxy_protocol = true", "https.proxy_protocol: is on, and no proxy is trusted"),
        ("listen = \"0.0.0.0:8443\"\nproxy_protocol = \"yes\"", "https.proxy_protocol: must be true or false"),
    ] {
        let problems = https(text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(says)), "{text}: {problems:#?}");
    }
}

#[test]
fn proxies_that_say_whom_connections_are_from_must_be_trusted() {
    let http = |text: &str| parse(&GOOD.replace("[admin]", &format!("{text}\n[admin]")), &[]);
    let config = http("proxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]").unwrap();
    assert!(config.proxy_protocol);
    assert!(
        http("proxy_protocol = true").unwrap_err()[0].contains("http.proxy_protocol: is on, and no proxy is trusted")
    );
    let env = [("TOLLGATE_HTTP_PROXY_PROTOCOL", "true"), ("TOLLGATE_HTTP_TRUSTED_PROXIES", "10.0.0.0/8")];
    assert!(parse(GOOD, &env).unwrap().proxy_protocol);
}

#[test]
fn what_a_node_takes_on_is_bounded_and_never_nothing() {
    let config = parse(GOOD, &[]).unwrap();
    assert_eq!((config.max_connections, config.max_requests, config.max_buffered), (None, None, None));
    let text = GOOD.replace("[admin]", "max_connections = 10\nmax_requests = 20\nmax_buffered = \"1MiB\"\n[admin]");
    let config = parse(&text, &[("TOLLGATE_HTTP_MAX_REQUESTS", "30")]).unwrap();
    assert_eq!((config.max_connections, config.max_requests, config.max_buffered), (Some(10), Some(30), Some(1 << 20)));
    let env = [
        ("TOLLGATE_HTTP_MAX_CONNECTIONS", "0"),
        ("TOLLGATE_HTTP_MAX_REQUESTS", "1000001"),
        ("TOLLGATE_HTTP_MAX_BUFFERED", "0B"),
    ];
    let problems = parse(GOOD, &env).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[0].ends_with("http.max_connections: must be a whole number, 1 to 1000000"), "{problems:#?}");
    assert!(problems[1].ends_with("http.max_requests: must be a whole number, 1 to 1000000"), "{problems:#?}");
    assert!(problems[2].ends_with("http.max_buffered: must be greater than zero"), "{problems:#?}");
}
