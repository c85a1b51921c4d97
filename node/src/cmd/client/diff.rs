//! `tollgate diff`: what an apply of the same files would change, line by line.

use clap::Args;
use similar::TextDiff;
use tollgate_model::{catalog::without_version, yaml};
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
    let files = args.input.read(&connection).await?;
    let request = args.input.request(&files);
    let answer = connection.read(async |at| at.config().diff(at.request(request.clone())).await).await;
    let diffs = answer.map_err(|error| placed(error, &files))?.into_inner().diffs;
    if diffs.is_empty() {
        anstream::eprintln!("no difference");
    }
    diffs.iter().try_for_each(|diff| write(&unified(diff)))
}

fn unified(diff: &ResourceDiff) -> String {
    // The version is no part of what is declared: it changes with it.
    let text = |resource: &Option<_>| {
        resource.as_ref().map_or_else(String::new, |it| yaml::to_yaml(std::slice::from_ref(&without_version(it))))
    };
    let (before, after) = (text(&diff.before), text(&diff.after));
    let name =
        diff.change.as_ref().map_or_else(String::new, |change| format!("{} {}", singular(&change.kind), change.name));
    let header = |there: bool| if there { name.clone() } else { "/dev/null".to_owned() };
    let lines = TextDiff::from_lines(&before, &after);
    let mut unified = lines.unified_diff();
    unified.context_radius(CONTEXT_LINES).header(&header(diff.before.is_some()), &header(diff.after.is_some()));
    unified.to_string()
}

#[cfg(test)]
mod tests {
    use tollgate_proto::admin::v1::ResourceChange;

    use super::*;

    #[test]
    fn a_diff_shows_what_is_declared_and_no_version() {
        let tenant = |version: u64, zone: &str| {
            let text = format!(
                "apiVersion: tollgate/v1\nkind: Tenant\nmetadata: {{name: acme, resourceVersion: {version}}}\n\
                 spec: {{timeZone: {zone}}}\n"
            );
            yaml::parse("test", &text).0.pop().map(|parsed| parsed.resource)
        };
        let change = ResourceChange { kind: "Tenant".into(), name: "acme".into(), ..ResourceChange::default() };
        let diff = ResourceDiff { change: Some(change), before: tenant(7, "UTC"), after: tenant(9, "Europe/Rome") };
        let text = unified(&diff);
        assert!(text.contains("-  timeZone: UTC") && text.contains("+  timeZone: Europe/Rome"), "{text}");
        assert!(!text.contains("resourceVersion"), "{text}");
    }
}
