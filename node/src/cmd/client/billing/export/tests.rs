use std::net::SocketAddr;

use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tollgate_proto::admin::v1::{
    GetStatementKeyRequest, GetStatementKeyResponse, ListAlertsRequest, ListAlertsResponse, ListPeriodsRequest,
    ListPeriodsResponse, ReconcileRequest, ReconcileResponse, ShowLedgerRequest, ShowLedgerResponse,
    VerifyLedgerRequest, VerifyLedgerResponse, VerifyPeriodRequest, VerifyPeriodResponse,
    billing_service_server::{BillingService, BillingServiceServer},
};
use tonic::{Request, Response, Status, async_trait, transport::Server};

use super::*;

const CHUNKS: [&str; 5] = ["head,", "a,", "", "b,", "c"];

/// A node that has the bill, and goes away after some chunks.
#[derive(Clone)]
struct Node {
    chunks: usize,
    end: Option<Status>,
}

#[async_trait]
impl BillingService for Node {
    type ExportStream = tokio_stream::Iter<std::vec::IntoIter<Result<ExportBillChunk, Status>>>;

    async fn export(&self, request: Request<ExportBillRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let from: usize = request.into_inner().cursor.parse().unwrap_or(0);
        let chunk = |at: usize| ExportBillChunk {
            data: CHUNKS[at].into(),
            cursor: (at + 1).to_string(),
            rows: (at - from) as u64,
            last: at + 1 == CHUNKS.len(),
            ..ExportBillChunk::default()
        };
        let told = (from..CHUNKS.len()).take(self.chunks).map(|at| Ok(chunk(at)));
        let told: Vec<_> = told.chain(self.end.clone().map(Err)).collect();
        Ok(Response::new(tokio_stream::iter(told)))
    }

    async fn reconcile(&self, _: Request<Streaming<ReconcileRequest>>) -> Result<Response<ReconcileResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn verify_ledger(&self, _: Request<VerifyLedgerRequest>) -> Result<Response<VerifyLedgerResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ExportStatementStream = Self::ExportStream;

    async fn export_statement(
        &self,
        request: Request<ExportStatementRequest>,
    ) -> Result<Response<Self::ExportStatementStream>, Status> {
        let cursor = request.into_inner().cursor;
        self.export(Request::new(ExportBillRequest { cursor, ..ExportBillRequest::default() })).await
    }

    async fn list_periods(&self, _: Request<ListPeriodsRequest>) -> Result<Response<ListPeriodsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn verify_period(&self, _: Request<VerifyPeriodRequest>) -> Result<Response<VerifyPeriodResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_statement_key(
        &self,
        _: Request<GetStatementKeyRequest>,
    ) -> Result<Response<GetStatementKeyResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn show_ledger(&self, _: Request<ShowLedgerRequest>) -> Result<Response<ShowLedgerResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_alerts(&self, _: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn start(node: Node, nodes: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(BillingServiceServer::new(node));
    nodes.spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
    address
}

/// What is in the file when all is done, and how that went.
async fn exported(nodes: &[Node]) -> (String, anyhow::Result<()>) {
    let (bill, done) = of(nodes, Asked::Bill(ExportBillRequest::default())).await;
    let (statement, also) = of(nodes, Asked::Statement(ExportStatementRequest::default())).await;
    assert_eq!((&statement, also.is_ok()), (&bill, done.is_ok()));
    (bill, done)
}

async fn of(nodes: &[Node], asked: Asked) -> (String, anyhow::Result<()>) {
    let (folder, mut running, mut admins) = (tempfile::tempdir().unwrap(), JoinSet::new(), Vec::new());
    for node in nodes {
        admins.push(format!("http://{}", start(node.clone(), &mut running).await));
    }
    let path = folder.path().join("bill");
    let connection = Connection::new(admins, String::new(), Duration::from_secs(2));
    let mut target = Target::open(Some(path.clone())).await.unwrap();
    let mut so_far = SoFar::new(String::new(), false);
    let done = copy(&connection, asked, &mut target, &mut so_far).await;
    target.finish().await.unwrap();
    (std::fs::read_to_string(path).unwrap(), done)
}

fn gone(chunks: usize) -> Node {
    Node { chunks, end: Some(Status::unavailable("gone")) }
}

#[tokio::test]
async fn a_bill_goes_on_at_another_node_with_the_next_byte() {
    let whole = CHUNKS.concat();
    for nodes in [
        vec![Node { chunks: 9, end: None }],
        vec![gone(0), gone(2)],
        vec![gone(1), gone(1), gone(9)],
        vec![Node { chunks: 2, end: None }],
        vec![Node { chunks: 1, end: Some(Status::internal("its disk")) }],
    ] {
        let (written, done) = exported(&nodes).await;
        assert!(done.is_ok(), "{done:?}");
        assert_eq!(written, whole);
    }
}

#[tokio::test]
async fn what_a_node_decides_ends_it_and_so_does_a_cluster_that_tells_nothing_more() {
    let (written, done) = exported(&[Node { chunks: 2, end: Some(Status::invalid_argument("cursor: no")) }]).await;
    assert_eq!((written.as_str(), done.unwrap_err().to_string().as_str()), ("head,a,", "cursor: no"));
    let (written, done) = exported(&[gone(0)]).await;
    assert_eq!(written, "");
    assert!(done.unwrap_err().to_string().starts_with("no node has answered: "));
}
