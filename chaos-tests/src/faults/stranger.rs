//! A client on the peer port that should not be let in, or not believed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{net::TcpStream, task::JoinSet, time};
use tokio_rustls::TlsConnector;

use crate::{Ca, Identity};

/// A refusal takes no longer.
const LIMIT: Duration = Duration::from_secs(10);

/// A gRPC answer as far as a stranger looks at it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// `grpc-status`; `None` where the call ended without one.
    pub status: Option<u32>,
    /// `grpc-message`.
    pub message: String,
    /// The message, without its length prefix.
    pub body: Bytes,
}

/// A client with a certificate, or without one.
#[derive(Debug)]
pub struct Stranger {
    tls: Arc<ClientConfig>,
    address: SocketAddr,
    /// Whom it expects to meet.
    name: ServerName<'static>,
}

impl Stranger {
    /// Dials node `id` at `address`; trusts `ca`, and shows `identity`.
    ///
    /// # Errors
    /// The certificates are not readable.
    pub fn new(address: SocketAddr, id: u64, ca: &Ca, identity: Option<&Identity>) -> anyhow::Result<Stranger> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes())?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.cert.as_bytes())?],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
            )?,
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(format!("node-{id}.tollgate.internal"))?;
        Ok(Stranger { tls: Arc::new(tls), address, name })
    }

    /// Calls `/tollgate.peer.v1.Peer/<method>` with one message.
    ///
    /// # Errors
    /// It is not let in, or thrown out.
    pub async fn call(&self, method: &str, metadata: &[(&str, &str)], message: &[u8]) -> anyhow::Result<Reply> {
        let length = u32::try_from(message.len())?;
        let frame = [&[0_u8][..], &length.to_be_bytes(), message].concat();
        self.call_raw(method, metadata, frame).await
    }

    /// The same with a body that may be anything.
    ///
    /// # Errors
    /// It is not let in, or thrown out.
    pub async fn call_raw(&self, method: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> anyhow::Result<Reply> {
        time::timeout(LIMIT, self.exchange(method, metadata, body)).await.context("neither an answer nor a refusal")?
    }

    async fn exchange(&self, method: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> anyhow::Result<Reply> {
        let socket = TcpStream::connect(self.address).await?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), socket).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("https://peer/tollgate.peer.v1.Peer/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let head = response.headers().clone();
        let collected = response.into_body().collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let field = |name: &str| {
            let value = trailers.get(name).or(head.get(name))?;
            value.to_str().ok().map(str::to_owned)
        };
        let bytes = collected.to_bytes();
        Ok(Reply {
            status: field("grpc-status").and_then(|status| status.parse().ok()),
            message: field("grpc-message").unwrap_or_default(),
            body: if bytes.len() > 5 { bytes.slice(5..) } else { Bytes::new() },
        })
    }
}

/// One field of a protobuf message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Varint(u64),
    /// Text, bytes or a message.
    Bytes(Vec<u8>),
}

/// The first field `number` of a message, read without its schema.
pub fn field(message: &[u8], number: u64) -> Option<Field> {
    let mut rest = message;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Field::Varint(varint(&mut rest)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Field::Bytes(value.to_vec())
            }
            _ => return None,
        };
        if tag >> 3 == number {
            return Some(value);
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_without_a_schema() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x18, 0x05];
        assert_eq!(field(&message, 1), Some(Field::Varint(150)));
        assert_eq!(field(&message, 2), Some(Field::Bytes(b"hi".to_vec())));
        assert_eq!(field(&message, 3), Some(Field::Varint(5)));
        assert_eq!(field(&message, 4), None);
        assert_eq!(field(&message[..2], 1), None);
    }
}
