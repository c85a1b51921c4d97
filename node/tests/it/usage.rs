//! Wrong usage and wrong input, told by the program itself: exit code 2 for the command line, 1 for what it names.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Nobody listens there: what gets this far is told as something else.
const NOBODY: [&str; 4] = ["--admin", "http://127.0.0.1:1", "--timeout", "50ms"];

/// Exit code and standard error.
fn tollgate(args: &[&str], input: &str) -> (i32, String) {
    run(Command::new(env!("CARGO_BIN_EXE_tollgate")).args(args), input)
}

fn run(command: &mut Command, input: &str) -> (i32, String) {
    for variable in ["TOLLGATE_ADMIN", "TOLLGATE_TOKEN"] {
        if !command.get_envs().any(|(name, _)| name == variable) {
            command.env_remove(variable);
        }
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    // A program that refuses its arguments may have ended before it reads.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn against_nobody<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &NOBODY].concat()
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_is_wrong() {
    for (args, says) in [
        (&["token", "create", "--role", "viewer", "--ttl", "abc"][..], "--ttl"),
        (&["token", "create", "--role", "viewer", "--ttl", "0s"], "longer than nothing"),
        (&["usage", "--by", "tenant,foo"], "`foo` is no column of usage"),
        (&["cluster", "status", "--admin", "ftp://x"], "not an http or https URL"),
        (&["cluster", "status", "--admin", ","], "no admin URL"),
        (&["cluster", "status", "--timeout", "0s"], "longer than nothing"),
        (&["cluster", "status", "--ca", "/nowhere/ca.pem"], "can't read /nowhere/ca.pem"),
    ] {
        let (code, told) = tollgate(args, "");
        assert_eq!(code, 2, "{args:?}: {told}");
        assert!(told.contains(says), "{args:?}: {told}");
    }
}

#[test]
fn a_token_that_can_be_none_is_refused_like_any_other() {
    for token in ["\u{fc}n\u{ef}", "not a token"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let (code, told) = run(command.args(against_nobody(&["get", "routes"])).env("TOLLGATE_TOKEN", token), "");
        assert!(code == 1 && told.contains("characters that no token has"), "{code}: {told}");
    }
}

#[test]
fn standard_input_is_pruned_only_as_a_set_of_its_own_and_never_to_nothing() {
    let prune = |more: &[&'static str]| against_nobody(&[&["apply", "-f", "-", "--prune"], more].concat());
    let (code, told) = tollgate(&prune(&[]), "");
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("--apply-set NAME") && told.contains("--selector"), "{told}");
    for named in [&["--apply-set", "mine"][..], &["--selector", "team=a"]] {
        let (code, told) = tollgate(&prune(named), "# nothing\n");
        assert_eq!(code, 1, "{told}");
        assert!(told.contains("nothing to apply: no resource in -"), "{told}");
    }
    let (code, told) = tollgate(&against_nobody(&["diff", "-f", "-", "--prune"]), "");
    assert_eq!(code, 2, "{told}");
}

#[test]
fn check_finds_what_would_be_refused_or_mute_later() {
    let consumer = |name: &str, key: &str| {
        format!(
            "---\napiVersion: tollgate/v1\nkind: Consumer\nmetadata: {{name: {name}}}\n\
             spec: {{tenant: acme, credentials: [{{apiKey: {key}}}]}}\n"
        )
    };
    let check = ["check", "--partial", "-"];
    let (code, told) = tollgate(&check, &(consumer("x", "sk-shared") + &consumer("y", "sk-shared")));
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("-:10:36: consumer y: spec.credentials[0]: has an API key that consumer `x` has"), "{told}");
    let (code, told) = tollgate(&check, &consumer("x", "k"));
    assert!(code == 1 && told.contains("spec.credentials[0].apiKey: is shorter than 8 characters"), "{code}: {told}");
    let (code, told) = tollgate(&check, &consumer("alice", "sk-alice"));
    assert_eq!(code, 0, "{told}");
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("node.toml");
    std::fs::write(&config, "[telemetry]\nlog = \"inf\"\n").expect("a file");
    let (code, told) = tollgate(&["check", config.to_str().expect("a plain path")], "");
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("telemetry.log: 'inf' is no level (did you mean 'info'?)"), "{told}");
}

#[test]
fn a_usage_line_asks_only_for_what_is_required() {
    for (args, line) in [
        (&["apply", "--prune"][..], "Usage: tollgate apply [OPTIONS] --file <FILE|DIR|->..."),
        (&["token", "create", "--ttl", "5m"], "Usage: tollgate token create [OPTIONS] --role <ROLE>"),
    ] {
        let (code, told) = tollgate(args, "");
        assert_eq!(code, 2);
        assert!(told.lines().any(|told| told == line), "{told}");
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
