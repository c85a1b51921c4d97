//! `tollgate delete`.

use clap::Args;
use tollgate_model::Kind;
use tollgate_proto::admin::v1::DeleteRequest;

use super::{
    apply::{WriteArgs, tell_request_id},
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
    let id = args.write.id();
    let request = DeleteRequest {
        kind: args.kind.to_string(),
        name: args.name.clone(),
        resource_version: args.resource_version,
        request_id: id.clone(),
    };
    let done = connection.call(async |at| at.config().delete(at.request(request.clone())).await).await;
    match done {
        Ok(done) => {
            anstream::eprintln!("deleted {} {}, index {}", args.kind.singular(), args.name, done.get_ref().index);
            Ok(())
        }
        Err(error) => match error.problems() {
            Some((problems, omitted)) => Err(tell(&problems, omitted)),
            None => {
                let error = anyhow::Error::from(error);
                tell_request_id(&error, &id);
                Err(error)
            }
        },
    }
}
