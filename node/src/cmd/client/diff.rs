//! `tollgate diff`: what an apply of the same files would change, line by line.

use clap::Args;
use similar::TextDiff;
use tollgate_model::yaml;
use tollgate_proto::admin::v1::ResourceDiff;

use super::{
    apply::{InputArgs, placed, singular},
    connection::{Connection, ConnectionArgs},
    output::write,
};

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// Show what an apply of the same files would change. Nothing is changed.
#[derive(Args, Debug)]
#[command(after_help = "Example: tollgate diff -f resources/ --prune")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: DiffArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    let files = args.input.read()?;
    let request = args.input.request(&files);
    let answer = connection.call(async |at| at.config().diff(at.request(request.clone())).await).await;
    let diffs = answer.map_err(|error| placed(error, &files))?.into_inner().diffs;
    if diffs.is_empty() {
        anstream::eprintln!("no difference");
    }
    diffs.iter().try_for_each(|diff| write(&unified(diff)))
}

fn unified(diff: &ResourceDiff) -> String {
    let text =
        |resource: &Option<_>| resource.as_ref().map_or_else(String::new, |it| yaml::to_yaml(std::slice::from_ref(it)));
    let (before, after) = (text(&diff.before), text(&diff.after));
    let name =
        diff.change.as_ref().map_or_else(String::new, |change| format!("{} {}", singular(&change.kind), change.name));
    let header = |there: bool| if there { name.clone() } else { "/dev/null".to_owned() };
    let lines = TextDiff::from_lines(&before, &after);
    let mut unified = lines.unified_diff();
    unified.context_radius(CONTEXT_LINES).header(&header(diff.before.is_some()), &header(diff.after.is_some()));
    unified.to_string()
}
