//! `tollgate apply`: files in, one atomic change.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use tollgate_model::{Kind, Problem, Problems};
use tollgate_proto::admin::v1::{
    ApplyRequest, ApplyResponse, ResourceChange, ShowLimitsRequest, StatusServedRequest, Warning,
};

use super::{
    connection::{Connection, ConnectionArgs},
    failure::{CallError, Usage, print, tell, told},
    files::{Files, is_stream, names},
    output::{ListFormat, write, write_list},
};

/// Between two looks at what the nodes serve.
const SERVED_POLL: Duration = Duration::from_millis(20);

/// Create, update and, with --prune, delete resources: one atomic change.
///
/// Every problem of every file is reported at once, and nothing is changed then.
#[derive(Args, Debug)]
#[command(
    override_usage = "tollgate apply [OPTIONS] --file <FILE|DIR|->...",
    after_help = "Example: tollgate apply -f resources/ --prune --wait"
)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
    /// Return once every live node serves the change.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How to print what was done.
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListFormat,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which resources, and what to prune.
#[derive(Args, Debug)]
pub(super) struct InputArgs {
    /// A file, a folder of .yaml, .yml and .json files, or - for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    files: Vec<PathBuf>,
    /// Delete what an earlier apply of the same set brought and these files lack; never more than that.
    #[arg(long)]
    prune: bool,
    /// Prune, instead, whatever carries these labels and is not in the files.
    #[arg(long, value_name = "LABEL=VALUE", value_delimiter = ',', value_parser = label, requires = "prune")]
    selector: Vec<(String, String)>,
    /// The set that these files are; by default it is named after the paths given with -f, as seen from here. Standard
    /// input has no name of its own, so that --prune needs this or --selector with it.
    #[arg(long, value_name = "NAME")]
    apply_set: Option<String>,
}

/// For commands that change something.
#[derive(Args, Debug, Clone)]
pub(super) struct WriteArgs {
    /// Repeats an earlier try whose outcome is unknown: 32 hexadecimal digits. The change is made once, and the first
    /// outcome is given again.
    #[arg(long, value_name = "HEX", value_parser = request_id)]
    request_id: Option<RequestId>,
}

/// The same id again gives the first outcome.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId([u8; 16]);

impl WriteArgs {
    /// The id given, or a new one.
    pub(super) fn id(&self) -> Vec<u8> {
        self.request_id.unwrap_or_else(|| RequestId(rand::random())).0.to_vec()
    }
}

fn request_id(text: &str) -> Result<RequestId, String> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map_err(|_| "must be 32 hexadecimal digits".to_owned())?;
    Ok(RequestId(id))
}

/// For clap: `team=a`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((label, value)) if !label.is_empty() => Ok((label.to_owned(), value.to_owned())),
        _ => Err("must be LABEL=VALUE".to_owned()),
    }
}

impl InputArgs {
    /// Reads the files. What is wrong with them is told here, and what they refer to is asked for then as well, so that
    /// everything is told at once.
    pub(super) async fn read(&self, connection: &Connection) -> anyhow::Result<Files> {
        self.check()?;
        let files = Files::read(&self.files);
        if files.problems.is_empty() {
            return if files.len() > 0 { Ok(files) } else { Err(self.nothing()) };
        }
        let mut problems = files.problems.clone();
        print(&problems);
        let (news, omitted) = self.ask(connection, &files).await;
        print(&news);
        problems.extend(news);
        Err(told(problems.len(), omitted))
    }

    /// Whoever pipes into this has the same paths as everybody else who does: one's prune would delete the other's.
    fn check(&self) -> Result<(), Usage> {
        let named = self.apply_set.as_ref().is_some_and(|name| !name.is_empty()) || !self.selector.is_empty();
        match self.files.iter().find(|path| is_stream(path)) {
            Some(path) if self.prune && !named => Err(Usage(format!(
                "--prune with -f {}: every input of that name would be one set: name yours with --apply-set NAME, or \
                 say with --selector LABEL=VALUE what to prune",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// An input without a resource is one that failed: to prune then would delete everything that it brought before.
    fn nothing(&self) -> anyhow::Error {
        let files = names(&self.files);
        if self.prune {
            anyhow::anyhow!(
                "nothing to apply: no resource in {files}, and --prune would delete the whole set: \
                 what shall go is deleted with `tollgate delete`"
            )
        } else {
            anyhow::anyhow!("nothing to apply: no resource in {files}")
        }
    }

    /// What a node finds wrong with as much of the files as could be read, and how much more of it there is.
    async fn ask(&self, connection: &Connection, files: &Files) -> (Problems, u32) {
        if files.resources().is_empty() {
            return (Problems::default(), 0);
        }
        let mut request = self.request(files);
        request.prune &= files.all_are_named();
        match connection.read(async |at| at.config().diff(at.request(request.clone())).await).await {
            Ok(_) => (Problems::default(), 0),
            Err(error) => match error.problems() {
                Some((found, omitted)) => (files.news(found), omitted),
                None => {
                    anstream::eprintln!("tollgate: what these resources refer to was not checked: {error}");
                    (Problems::default(), 0)
                }
            },
        }
    }

    /// The request for these files, without an id.
    pub(super) fn request(&self, files: &Files) -> ApplyRequest {
        ApplyRequest {
            resources: files.resources(),
            prune: self.prune,
            selector: self.selector.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect(),
            apply_set: if self.selector.is_empty() {
                self.apply_set()
            } else {
                self.apply_set.clone().unwrap_or_default()
            },
            ..ApplyRequest::default()
        }
    }

    /// The same paths from the same place are the same set. Hashed, as what folders are called here is nobody's business.
    fn apply_set(&self) -> String {
        if let Some(name) = &self.apply_set {
            return name.clone();
        }
        let mut paths: Vec<String> = self.files.iter().map(absolute).collect();
        paths.sort();
        let hash = blake3::hash(paths.join("\0").as_bytes());
        format!("files-{}", hex::encode(&hash.as_bytes()[..8]))
    }
}

fn absolute(path: &PathBuf) -> String {
    if path.as_os_str() == "-" {
        return "-".to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
}

pub(super) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    let files = args.input.read(&connection).await?;
    let request = ApplyRequest { dry_run: args.dry_run, request_id: args.write.id(), ..args.input.request(&files) };
    let done = send(&connection, &files, request).await?;
    report(&done, args.dry_run, args.output)?;
    warn(&done.warnings, &files);
    if args.wait { in_effect(&connection, &done).await } else { Ok(()) }
}

/// Applies resources from a text and waits until every live node serves them.
pub(crate) async fn apply_text(connection: &Connection, text: &str) -> anyhow::Result<()> {
    let files = Files::of_text("(built in)", text);
    if !files.problems.is_empty() {
        bail!("{}", files.problems);
    }
    let request = ApplyRequest {
        resources: files.resources(),
        request_id: rand::random::<[u8; 16]>().to_vec(),
        ..ApplyRequest::default()
    };
    let done = send(connection, &files, request).await?;
    in_effect(connection, &done).await
}

async fn send(connection: &Connection, files: &Files, request: ApplyRequest) -> anyhow::Result<ApplyResponse> {
    let call = async |at: &super::connection::Attempt| at.config().apply(at.request(request.clone())).await;
    let done = match request.dry_run {
        true => connection.read(call).await,
        false => connection.write(&request.request_id, call).await,
    };
    done.map(tonic::Response::into_inner).map_err(|error| placed(error, files))
}

/// The refusal with its problems printed at their places in the files, if it has any.
pub(super) fn placed(error: CallError, files: &Files) -> anyhow::Error {
    let Some((mut problems, omitted)) = error.problems() else { return error.into() };
    files.place(&mut problems);
    if matches!(&error, CallError::Refused(status) if status.code() == tonic::Code::Aborted) {
        anstream::eprintln!("tollgate: conflict: the cluster has other versions; read them again, then decide");
    }
    tell(&problems, omitted)
}

fn report(done: &ApplyResponse, dry_run: bool, output: ListFormat) -> anyhow::Result<()> {
    if output == ListFormat::Json {
        let rows = done.changes.iter().map(row).collect();
        return write_list(output, &[], rows);
    }
    let mut text = String::new();
    for change in &done.changes {
        text += &format!("{:<9} {} {}\n", change.action, singular(&change.kind), change.name);
    }
    write(&text)?;
    let dry = if dry_run { " (dry run: nothing was changed)" } else { "" };
    anstream::eprintln!("{}, index {}{dry}", counts(&done.changes), done.index);
    Ok(())
}

/// Says what was accepted and may not work as it is.
fn warn(warnings: &[Warning], files: &Files) {
    for warning in warnings {
        let is_about_a_key = [".env", ".file"].iter().any(|field| warning.field.ends_with(field));
        let message = match is_about_a_key {
            true => format!("node {}, which took the call, does not have this key: {}", warning.node, warning.message),
            false => warning.message.clone(),
        };
        let kind = warning.kind.parse().ok();
        let (name, field) = (warning.name.clone(), warning.field.clone());
        let mut problem = Problems(vec![Problem { kind, name, field, message, at: None }]);
        files.place(&mut problem);
        anstream::eprintln!("tollgate: warning: {problem}");
    }
}

fn row(change: &ResourceChange) -> Value {
    let version = (change.resource_version != 0).then_some(change.resource_version); // none before it is made
    json!({"kind": change.kind, "name": change.name, "action": change.action, "resourceVersion": version})
}

/// A kind as it is written in sentences.
pub(super) fn singular(kind: &str) -> String {
    kind.parse::<Kind>().map_or_else(|_| kind.to_owned(), |kind| kind.singular().to_owned())
}

fn counts(changes: &[ResourceChange]) -> String {
    let count = |action: &str| changes.iter().filter(|change| change.action == action).count();
    let parts = ["created", "updated", "deleted", "unchanged"].map(|action| (count(action), action));
    let said: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, action)| format!("{n} {action}")).collect();
    if said.is_empty() { "nothing to change".to_owned() } else { said.join(", ") }
}

/// Waits until every live node serves what was applied, and no node, live or not, spends by what its limits were before.
async fn in_effect(connection: &Connection, done: &ApplyResponse) -> anyhow::Result<()> {
    let deadline = connection.deadline();
    served(connection, done.index, deadline).await?;
    let is_limit = |change: &&ResourceChange| change.action == "updated" && change.kind.parse() == Ok(Kind::Limit);
    let changed: Vec<&str> = done.changes.iter().filter(is_limit).map(|change| change.name.as_str()).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let is_over = || std::time::Instant::now() + SERVED_POLL >= deadline;
    let mut lowered = Vec::new();
    loop {
        let request = ShowLimitsRequest { page_size: 1, ..ShowLimitsRequest::default() };
        let ask = async |at: &super::connection::Attempt| at.limits().show(at.request(request.clone())).await;
        match connection.read_until(deadline, ask).await {
            Ok(shown) => {
                lowered = shown.into_inner().taking_effect;
                lowered.retain(|limit| changed.contains(&limit.as_str()));
                if lowered.is_empty() {
                    return Ok(());
                }
            }
            // What was said last still tells more than that time was over in the middle of a question.
            Err(_) if is_over() && !lowered.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
        if is_over() {
            bail!(
                "the change has index {} and is accepted, but not effective everywhere yet: a node that can't be reached may \
                 still spend by the former limit, or calls are in flight that began under it: {}. A node stops by itself after \
                 its [limits] isolation; see `tollgate limits show`",
                done.index,
                lowered.join(", ")
            );
        }
        tokio::time::sleep(SERVED_POLL).await;
    }
}

/// Waits until every live node serves the configuration of this index.
async fn served(connection: &Connection, index: u64, deadline: std::time::Instant) -> anyhow::Result<()> {
    loop {
        let ask =
            async |at: &super::connection::Attempt| at.config().status_served(at.request(StatusServedRequest {})).await;
        let nodes = connection.read_until(deadline, ask).await?.into_inner().nodes;
        let behind: Vec<_> = nodes.iter().filter(|node| node.reachable && node.index < index).collect();
        if behind.is_empty() {
            return Ok(());
        }
        if std::time::Instant::now() + SERVED_POLL >= deadline {
            let behind =
                behind.iter().map(|node| format!("node {} serves {}", node.id, node.index)).collect::<Vec<_>>();
            bail!("the change has index {index} and is made, but is not served everywhere yet: {}", behind.join(", "));
        }
        tokio::time::sleep(SERVED_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(files: &[&str]) -> InputArgs {
        InputArgs {
            files: files.iter().map(PathBuf::from).collect(),
            prune: false,
            selector: Vec::new(),
            apply_set: None,
        }
    }

    #[test]
    fn the_same_files_are_the_same_set_in_any_order() {
        assert_eq!(input(&["a", "b"]).apply_set(), input(&["b", "a"]).apply_set());
        assert_ne!(input(&["a"]).apply_set(), input(&["b"]).apply_set());
        assert_eq!(InputArgs { apply_set: Some("mine".into()), ..input(&["a"]) }.apply_set(), "mine");
    }

    #[test]
    fn what_comes_through_a_pipe_is_pruned_only_with_a_set_or_a_selector() {
        let prune = |files: &[&str]| InputArgs { prune: true, ..input(files) };
        for stream in ["-", "/dev/stdin", "/dev/fd/63", "/proc/self/fd/0"] {
            let refused = prune(&["a.yaml", stream]).check().unwrap_err().to_string();
            assert!(refused.contains("--apply-set") && refused.contains("--selector"), "{refused}");
            assert!(InputArgs { apply_set: Some(String::new()), ..prune(&[stream]) }.check().is_err());
            assert!(InputArgs { apply_set: Some("mine".into()), ..prune(&[stream]) }.check().is_ok());
            let selector = vec![("team".to_owned(), "a".to_owned())];
            assert!(InputArgs { selector, ..prune(&[stream]) }.check().is_ok());
            assert!(input(&[stream]).check().is_ok(), "nothing is pruned");
        }
        assert!(prune(&["a.yaml"]).check().is_ok() && prune(&["."]).check().is_ok());
    }

    #[tokio::test]
    async fn an_input_without_a_resource_prunes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rendered.yaml");
        std::fs::write(&path, "# the renderer failed\n---\n").unwrap();
        let nobody = Connection::new(Vec::new(), String::new(), Duration::ZERO);
        let refused = InputArgs { prune: true, ..input(&[path.to_str().unwrap()]) }.read(&nobody).await.unwrap_err();
        assert!(refused.to_string().starts_with("nothing to apply: no resource in "), "{refused}");
    }

    #[test]
    fn a_label_and_a_request_id_have_their_forms() {
        assert_eq!(label("team=a=b"), Ok(("team".into(), "a=b".into())));
        assert!(label("team").is_err() && label("=a").is_err());
        assert!(request_id(&"ab".repeat(16)).is_ok());
        assert!(request_id("abc").is_err() && request_id(&"zz".repeat(16)).is_err());
    }
}
