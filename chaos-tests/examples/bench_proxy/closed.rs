//! As many calls as there is time for, over connections that stay open.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use tempfile::NamedTempFile;
use tollgate_chaos_tests::{
    calls::Call,
    figure::{Figure, median},
    resources::api_key,
};

use super::scene::{CONSUMER, Scene, Side};

const CONNECTIONS: &str = "64";
/// Requests a second of each connection where the rate is fixed.
const RATE: u32 = 300;
/// Events of a stream, the one with the usage and the end not counted.
pub(super) const EVENTS: u64 = 100;
/// Between two events of a stream.
pub(super) const PACE: &str = "5ms";

/// How many turns each side has, and how long each is.
#[derive(Clone, Copy)]
pub(super) struct Turns {
    pub(super) rounds: usize,
    pub(super) time: Duration,
}

pub(super) fn http(scene: &Scene, turns: Turns) -> anyhow::Result<Vec<Figure>> {
    let load = Load::Wrk { path: "/plain", call: None };
    compare(scene, turns, &load, "1 KB over HTTP/1.1", 1, 1.15)
}

/// The same where none of the two is at its end: with as much to do, whoever makes the load sleeps as often, and to be woken is paid for by
/// whoever wakes it. At saturation the faster proxy keeps the load awake and the slower one does not.
pub(super) fn http_at_a_rate(scene: &Scene, turns: Turns) -> anyhow::Result<Vec<Figure>> {
    let load = Load::H2load { path: "/plain", rate: Some(RATE) };
    compare(scene, turns, &load, &format!("1 KB over HTTP/1.1 at {}/s", 64 * RATE), 1, 1.15)
}

pub(super) fn http2(scene: &Scene, turns: Turns) -> anyhow::Result<Vec<Figure>> {
    compare(scene, turns, &Load::H2load { path: "/plain", rate: None }, "1 KB, HTTP/2 from the client", 1, 1.15)
}

pub(super) fn ai(scene: &Scene, turns: Turns) -> anyhow::Result<Vec<Figure>> {
    let load = Load::Wrk { path: "/v1/chat/completions", call: Some(Call::chat(&api_key(CONSUMER), "mock-1")) };
    compare(scene, turns, &load, "a call of a model", 1, 1.4)
}

pub(super) fn streams(scene: &Scene, turns: Turns) -> anyhow::Result<Vec<Figure>> {
    let model = format!("mock-1+pace={PACE}+output={EVENTS}");
    let call = Call::chat(&api_key(CONSUMER), &model).max_tokens(EVENTS).stream();
    let load = Load::Wrk { path: "/v1/chat/completions", call: Some(call) };
    compare(scene, turns, &load, "an event of a stream", EVENTS, 1.3)
}

/// Who makes the load.
enum Load {
    Wrk {
        path: &'static str,
        call: Option<Call>,
    },
    /// Over HTTP/2 as much as there is time for, or over HTTP/1.1 so many requests a second on each connection.
    H2load {
        path: &'static str,
        rate: Option<u32>,
    },
}

/// What a load of some seconds came to.
struct Ran {
    answered: u64,
    failed: u64,
}

impl Load {
    fn run(&self, side: &Side, time: Duration) -> anyhow::Result<Ran> {
        match self {
            Load::Wrk { path, call } => wrk(&format!("{}{path}", side.origin), call.as_ref(), time),
            Load::H2load { path, rate: None } => {
                h2load(&["-c", "8", "-m", "8"], &format!("{}{path}", side.http2), time)
            }
            Load::H2load { path, rate: Some(rate) } => {
                let (rate, url) = (rate.to_string(), format!("{}{path}", side.origin));
                h2load(&["--h1", "-c", CONNECTIONS, "--rps", &rate], &url, time)
            }
        }
    }
}

/// CPU of both sides for each of `parts` equal parts of a call, in turns.
#[expect(clippy::cast_precision_loss, reason = "some thousand calls a second")]
fn compare(
    scene: &Scene,
    Turns { rounds, time }: Turns,
    load: &Load,
    what: &str,
    parts: u64,
    target: f64,
) -> anyhow::Result<Vec<Figure>> {
    let sides = scene.sides()?;
    let mut costs: [Vec<f64>; 2] = Default::default();
    let mut rates: [Vec<f64>; 2] = Default::default();
    for round in 0..=rounds {
        for (at, side) in sides.iter().enumerate() {
            let before = side.used()?;
            let ran = load.run(side, time)?;
            let used = side.used()? - before;
            anyhow::ensure!(
                ran.failed == 0 && ran.answered > 0,
                "{}: {} of {} failed",
                side.name,
                ran.failed,
                ran.answered
            );
            // The first round warms up.
            if round > 0 {
                costs[at].push(used / (ran.answered * parts) as f64);
                rates[at].push((ran.answered * parts) as f64 / time.as_secs_f64());
            }
        }
    }
    let [ours, theirs] = costs;
    let detail = |costs: &[f64], rates: &[f64]| format!("{:.1} µs at {:.0}/s", median(costs), median(rates));
    let told = format!("{}, nginx {}", detail(&ours, &rates[0]), detail(&theirs, &rates[1]));
    let ratio = Figure::ratio(format!("CPU for {what}, to nginx"), &ours, &theirs).at_most(target);
    Ok(vec![ratio.and(&told)])
}

/// What `wrk` shall print at its end, and what it shall send.
fn script(call: Option<&Call>) -> anyhow::Result<NamedTempFile> {
    let mut script = NamedTempFile::new()?;
    if let Some(call) = call {
        let request = call.request("http://any");
        writeln!(script, "wrk.method = 'POST'\nwrk.body = [==[{}]==]", call.body)?;
        for (name, value) in request.headers() {
            writeln!(script, "wrk.headers['{name}'] = '{}'", value.to_str()?)?;
        }
    }
    let done = "function done(s, l, r)
        local e = s.errors
        io.write(string.format('RAN %d %d\\n', s.requests, e.connect + e.read + e.write + e.status + e.timeout))
    end";
    writeln!(script, "{done}")?;
    Ok(script)
}

fn wrk(url: &str, call: Option<&Call>, time: Duration) -> anyhow::Result<Ran> {
    let script = script(call)?;
    let mut command = Command::new("wrk");
    command
        .args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{}s", time.as_secs()), "-s"])
        .arg(script.path())
        .arg(url);
    let told = told(&mut command)?;
    let line = told.lines().find_map(|line| line.strip_prefix("RAN ")).context("wrk says nothing")?;
    let (answered, failed) = line.split_once(' ').context("wrk says two numbers")?;
    Ok(Ran { answered: answered.parse()?, failed: failed.parse()? })
}

fn h2load(how: &[&str], url: &str, time: Duration) -> anyhow::Result<Ran> {
    let mut command = Command::new("h2load");
    command.args(how).args(["-D", &time.as_secs().to_string(), url]);
    let told = told(&mut command)?;
    // requests: 1000 total, 1001 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout
    let line = told.lines().find_map(|line| line.strip_prefix("requests: ")).context("h2load says nothing")?;
    let number = |name: &str| -> anyhow::Result<u64> {
        let part = line.split(", ").find_map(|part| part.strip_suffix(name)).with_context(|| line.to_owned())?;
        Ok(part.trim().parse()?)
    };
    Ok(Ran { answered: number(" succeeded")?, failed: number(" failed")? + number(" errored")? })
}

fn told(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let run =
        command.stdin(Stdio::null()).output().with_context(|| format!("{program} does not start: is it installed?"))?;
    anyhow::ensure!(run.status.success(), "{program}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}
