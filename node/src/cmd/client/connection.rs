//! A connection to the cluster: any of its nodes, the next one when one is dead, the same request id when it is not
//! known whether a write happened.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rand::RngExt;
use tollgate_admin::{
    MAX_ANSWER_BYTES, MAX_APPLY_BYTES,
    details::{DETAILS_BYTES, Reason, reason_of},
};
use tollgate_proto::admin::v1::{
    billing_service_client::BillingServiceClient, cluster_service_client::ClusterServiceClient,
    config_service_client::ConfigServiceClient, credit_service_client::CreditServiceClient,
    limit_service_client::LimitServiceClient, usage_service_client::UsageServiceClient,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::failure::{CallError, Usage};

/// How long a node may take to accept a connection before the next one is asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The least that one node gets to answer, however many there are.
const MIN_ATTEMPT: Duration = Duration::from_secs(2);
/// Between two rounds of asking every node, longer each time, with jitter.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];
/// Error details come in headers, which must be let in.
const MAX_HEADERS_BYTES: u32 = 1024 * 1024;
/// What is asked for of that, with room for base64 and the other headers.
const WANTED_DETAILS: &str = "524288";

const NOT_A_TOKEN: &str = "the token has characters that no token has: see --token and TOLLGATE_TOKEN";

/// Which cluster, and as whom.
#[derive(Args, Debug, Clone)]
pub(crate) struct ConnectionArgs {
    /// Admin URLs of the cluster's nodes, comma-separated; a dead one is skipped.
    #[arg(
        long,
        global = true,
        env = "TOLLGATE_ADMIN",
        value_name = "URL[,URL…]",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:9000",
        help_heading = "Connection"
    )]
    admin: Vec<String>,
    /// Admin token.
    #[arg(
        long,
        global = true,
        env = "TOLLGATE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Connection"
    )]
    token: Option<String>,
    /// PEM file of the authority that signed the admin plane's certificates, for https URLs.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    ca: Option<PathBuf>,
    /// How long to try, such as 500ms, 10s or 1m.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = crate::cmd::some_time, help_heading = "Connection")]
    timeout: Duration,
}

/// The cluster, as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    admins: Vec<String>,
    token: String,
    ca: Option<PathBuf>,
    timeout: Duration,
}

impl Connection {
    /// Any of the nodes at these admin URLs, as the holder of `token`, each call for at most `timeout`.
    pub(crate) fn new(admins: Vec<String>, token: String, timeout: Duration) -> Connection {
        Connection { admins, token, ca: None, timeout }
    }

    /// From the command line.
    pub(super) fn open(args: ConnectionArgs) -> anyhow::Result<Connection> {
        let named = |url: &String| !url.trim().is_empty();
        let admins: Vec<String> =
            args.admin.iter().filter(|url| named(url)).map(|url| with_scheme(url.trim())).collect();
        if admins.is_empty() {
            return Err(Usage("no admin URL: give --admin or TOLLGATE_ADMIN".to_owned()).into());
        }
        let connection =
            Connection { admins, token: args.token.unwrap_or_default(), ca: args.ca, timeout: args.timeout };
        connection.bearer()?;
        connection.check().map_err(|error| Usage::of(&error))?;
        Ok(connection)
    }

    /// What no node can mend is said before the first is asked.
    fn check(&self) -> anyhow::Result<()> {
        if self.ca.is_some() {
            self.tls().context("--ca")?;
        }
        for admin in &self.admins {
            self.endpoint(admin, CONNECT_TIMEOUT).with_context(|| format!("--admin {admin}"))?;
        }
        Ok(())
    }

    /// How long to wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long a verb may take in all.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Asks one node after another until one has answered for good, or the time is over. For what changes nothing.
    pub(super) async fn read<T>(&self, call: impl AsyncFn(&Attempt) -> Result<T, Status>) -> Result<T, CallError> {
        self.read_until(self.deadline(), call).await
    }

    /// The same, with a deadline that several calls share.
    pub(super) async fn read_until<T>(
        &self,
        deadline: Instant,
        call: impl AsyncFn(&Attempt) -> Result<T, Status>,
    ) -> Result<T, CallError> {
        self.call_until(deadline, call).await.map_err(CallError::of_a_read)
    }

    /// The same for what changes something. `call` may run several times, so it must carry `request_id`: it then happens
    /// once however often it is sent, and the caller is told how to go on when it is not known whether it has.
    pub(super) async fn write<T>(
        &self,
        request_id: &[u8],
        call: impl AsyncFn(&Attempt) -> Result<T, Status>,
    ) -> Result<T, CallError> {
        let done = self.call_until(self.deadline(), call).await;
        done.map_err(|error| error.of_a_write(request_id))
    }

    async fn call_until<T>(
        &self,
        deadline: Instant,
        call: impl AsyncFn(&Attempt) -> Result<T, Status>,
    ) -> Result<T, CallError> {
        let mut failures = Failures::default();
        let mut pauses = PAUSES.iter().copied().chain(std::iter::repeat(PAUSES[PAUSES.len() - 1]));
        loop {
            for admin in &self.admins {
                match self.try_one(admin, deadline, &call).await {
                    Ok(answer) => return Ok(answer),
                    Err(Tried::Final(status)) => return Err(CallError::Refused(status)),
                    Err(Tried::Again { why, maybe_done }) => failures.add(admin, why, maybe_done),
                }
            }
            let pause = pauses.next().expect("the pauses never end").mul_f64(rand::rng().random_range(0.5..1.5));
            if Instant::now() + pause >= deadline {
                return Err(failures.into_error());
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_one<T>(
        &self,
        admin: &str,
        deadline: Instant,
        call: &impl AsyncFn(&Attempt) -> Result<T, Status>,
    ) -> Result<T, Tried> {
        let left = deadline.saturating_duration_since(Instant::now());
        let nodes = u32::try_from(self.admins.len()).unwrap_or(u32::MAX);
        let share = (self.timeout / nodes).max(MIN_ATTEMPT).min(left);
        let again = |why: String, maybe_done| Tried::Again { why, maybe_done };
        let connected = self.connect(admin, share.min(CONNECT_TIMEOUT)).await;
        let channel = connected.map_err(|error| again(format!("{error:#}"), false))?;
        let attempt =
            Attempt { channel, token: self.bearer().map_err(|error| again(error.to_string(), false))?, timeout: share };
        match tokio::time::timeout(share, call(&attempt)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(Tried::judge(status)),
            Err(_) => Err(again("no answer in time".to_owned(), true)),
        }
    }

    async fn connect(&self, admin: &str, timeout: Duration) -> anyhow::Result<Channel> {
        let endpoint = self.endpoint(admin, timeout)?;
        let connecting = tokio::time::timeout(timeout, endpoint.connect());
        connecting.await.context("no connection in time")?.map_err(plain)
    }

    fn endpoint(&self, admin: &str, timeout: Duration) -> anyhow::Result<Endpoint> {
        let endpoint = Endpoint::from_shared(admin.to_owned()).context("not a URL")?;
        let endpoint = endpoint.connect_timeout(timeout).http2_max_header_list_size(MAX_HEADERS_BYTES);
        match endpoint.uri().scheme_str() {
            Some("http") => Ok(endpoint),
            Some("https") => endpoint.tls_config(self.tls()?).context("TLS"),
            _ => bail!("not an http or https URL"),
        }
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let Some(ca) = &self.ca else { bail!("an https URL needs --ca FILE, the authority to trust") };
        let pem = std::fs::read(ca).with_context(|| format!("can't read {}", ca.display()))?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }

    fn bearer(&self) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let token = self.token.trim();
        // More would go into a header, and no node would take it for a token.
        ensure!(token.bytes().all(|byte| byte.is_ascii_graphic()), NOT_A_TOKEN);
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().context(NOT_A_TOKEN)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// tonic says "transport error" and keeps the reason to itself: this is the reason.
fn plain(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    anyhow::anyhow!("{}", error.root_cause())
}

/// One connection to one node.
#[derive(Clone)]
pub(super) struct Attempt {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    timeout: Duration,
}

impl Attempt {
    /// A request with everything in its metadata that a call needs.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.stream_request(message);
        request.set_timeout(self.timeout);
        request
    }

    /// The same without a deadline, for a stream that goes on.
    pub(super) fn stream_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(DETAILS_BYTES, MetadataValue::from_static(WANTED_DETAILS));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    pub(super) fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_APPLY_BYTES)
    }

    pub(super) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    pub(super) fn credits(&self) -> CreditServiceClient<Channel> {
        CreditServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(super) fn limits(&self) -> LimitServiceClient<Channel> {
        LimitServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(super) fn usage(&self) -> UsageServiceClient<Channel> {
        UsageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(super) fn billing(&self) -> BillingServiceClient<Channel> {
        BillingServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// Whether another node may give what this one did not: what a node decided, none will.
pub(super) fn is_for_another(status: &Status) -> bool {
    matches!(Tried::judge(status.clone()), Tried::Again { .. })
}

/// Why one node's answer was not the end of it, or was.
enum Tried {
    Final(Status),
    Again { why: String, maybe_done: bool },
}

impl Tried {
    /// What a node decided is final; what it could not do, another one may.
    fn judge(status: Status) -> Tried {
        let (again, maybe_done) = match reason_of(&status) {
            Some(Reason::OutcomeUnknown) => (true, true),
            Some(Reason::NoLeader | Reason::Busy) => (true, false),
            Some(_) => (false, false),
            // Not from a service: from the gate, or from whatever broke on the way.
            None => {
                let broken =
                    matches!(status.code(), Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal);
                let unavailable = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
                (broken || unavailable, broken || status.code() == Code::Unavailable)
            }
        };
        if !again {
            return Tried::Final(status);
        }
        Tried::Again { why: super::failure::sentence(&status), maybe_done }
    }
}

/// The last failure of each node.
#[derive(Default)]
struct Failures {
    by_node: Vec<(String, String)>,
    maybe_done: bool,
}

impl Failures {
    fn add(&mut self, admin: &str, why: String, maybe_done: bool) {
        self.maybe_done |= maybe_done;
        match self.by_node.iter_mut().find(|(node, _)| node == admin) {
            Some((_, last)) => *last = why,
            None => self.by_node.push((admin.to_owned(), why)),
        }
    }

    fn into_error(self) -> CallError {
        let nodes = self.by_node.into_iter().map(|(node, why)| format!("{node}: {why}"));
        let nodes = nodes.collect::<Vec<_>>().join("; ");
        CallError::NoAnswer { nodes, maybe_done: self.maybe_done, request_id: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_admin::details::refuse;

    use super::*;

    #[test]
    fn what_a_node_decided_is_final_and_what_it_could_not_do_is_asked_elsewhere() {
        for reason in [Reason::Invalid, Reason::Conflict, Reason::NotFound, Reason::Referenced, Reason::Refused] {
            assert!(matches!(Tried::judge(refuse(reason, "no")), Tried::Final(_)), "{reason:?}");
        }
        for (status, done) in [
            (refuse(Reason::OutcomeUnknown, "?"), true),
            (refuse(Reason::NoLeader, "?"), false),
            (refuse(Reason::Busy, "?"), false),
            (Status::unknown("broken pipe"), true),
            (Status::unavailable("gone"), true),
        ] {
            assert!(matches!(Tried::judge(status), Tried::Again { maybe_done, .. } if maybe_done == done));
        }
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented, Code::InvalidArgument] {
            assert!(matches!(Tried::judge(Status::new(code, "no")), Tried::Final(_)), "{code:?}");
        }
    }

    #[test]
    fn a_url_without_a_scheme_is_plain_http() {
        assert_eq!(with_scheme("127.0.0.1:9000"), "http://127.0.0.1:9000");
        assert_eq!(with_scheme("https://a:1"), "https://a:1");
    }
}
