//! `tollgate delete`.

use anyhow::ensure;
use clap::Args;
use tollgate_model::Kind;
use tollgate_proto::admin::v1::{DeleteRequest, DeleteResponse, ResourceChange};

use super::{
    apply::WriteArgs,
    connection::{Connection, ConnectionArgs},
    failure::tell,
};

/// Delete one resource. Refused while another one refers to it.
#[derive(Args, Debug)]
#[command(after_help = "Example: tollgate delete route chat")]
pub(crate) struct DeleteArgs {
    /// service, provider, route, tenant, consumer, limit or price.
    kind: Kind,
    /// The resource's name.
    name: String,
    /// Only if this is still its version.
    #[arg(long, value_name = "INDEX")]
    resource_version: Option<u64>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    let request = DeleteRequest {
        kind: args.kind.to_string(),
        name: args.name.clone(),
        resource_version: args.resource_version,
        request_id: args.write.id(),
    };
    let done =
        connection.write(&request.request_id, async |at| at.config().delete(at.request(request.clone())).await).await;
    match done {
        Ok(done) => report(&done.into_inner(), args.kind, &args.name),
        Err(error) => match error.problems() {
            Some((problems, omitted)) => Err(tell(&problems, omitted)),
            None => Err(error.into()),
        },
    }
}

/// Says what was done, if it is what was asked for.
fn report(done: &DeleteResponse, kind: Kind, name: &str) -> anyhow::Result<()> {
    let is_it = |it: &ResourceChange| it.action == "deleted" && it.kind == kind.as_str() && it.name == name;
    let kind = kind.singular();
    ensure!(
        done.change.as_ref().is_some_and(is_it),
        "the answer is not that {kind} {name} was deleted: see with `tollgate get {kind} {name}`"
    );
    anstream::eprintln!("deleted {kind} {name}, index {}", done.index);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outcome_of_this_very_deletion_is_success() {
        let done = |action: &str, name: &str| {
            let change =
                ResourceChange { kind: "Route".into(), name: name.into(), action: action.into(), resource_version: 3 };
            report(&DeleteResponse { index: 3, change: Some(change) }, Kind::Route, "chat").is_ok()
        };
        assert!(done("deleted", "chat"));
        assert!(!done("created", "chat") && !done("deleted", "other"));
        assert!(report(&DeleteResponse { index: 3, change: None }, Kind::Route, "chat").is_err());
    }
}
