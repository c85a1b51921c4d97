//! Clients over TLS: certificates in files and in the configuration, replaced while nodes run.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tollgate_chaos_tests::{Ca, Cluster, Identity, Outcome, Plan, Run, eventually, free_port, resources::document};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) async fn connect(address: SocketAddr, ca: &Ca, name: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connecting = async {
        let tcp = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(name.to_owned())?, tcp)
            .await
            .map_err(Into::into)
    };
    timeout(LIMIT, connecting).await.context("the handshake does not end")?
}

/// What `host` answers by a connection.
pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>, host: &str) -> anyhow::Result<String> {
    let request = format!("GET /state HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    while !read.ends_with(b"here") {
        anyhow::ensure!(timeout(LIMIT, stream.read_buf(&mut read)).await?? > 0, "{}", String::from_utf8_lossy(&read));
    }
    Ok(String::from_utf8(read)?)
}

async fn is_served(address: SocketAddr, ca: &Ca, name: &str, expected: &Identity) -> anyhow::Result<()> {
    let mut stream = connect(address, ca, name).await?;
    ask(&mut stream, name).await?;
    let served = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    anyhow::ensure!(*served == CertificateDer::from_pem_slice(expected.cert.as_bytes())?, "another certificate");
    Ok(())
}

fn certificate(name: &str, host: &str, pem: &str, key: &str) -> String {
    let (pem, key) = (Value::from(pem), Value::from(key));
    document("Certificate", name, &format!("{{hosts: [{host}], certificate: {pem}, key: {{value: {key}}}}}"))
}

/// With TLS on an address of its own, a certificate for `node.test` in files, and a route that answers by itself.
async fn one(ca: &Ca) -> anyhow::Result<(Cluster, SocketAddr, Identity)> {
    let mut cluster = Cluster::prepare(&Plan { nodes: 1, ..Plan::default() })?;
    let (address, identity) = (free_port(), ca.server("node.test")?);
    let node = cluster.node(1);
    write(&node.dir, &identity)?;
    let more = format!("[https]\nlisten = \"{address}\"\ncert = \"https.pem\"\nkey = \"https.key\"\n");
    fs::write(node.config(), fs::read_to_string(node.config())? + &more)?;
    Ok((cluster, address, identity))
}

fn write(dir: &Path, identity: &Identity) -> anyhow::Result<()> {
    fs::write(dir.join("https.pem"), &identity.cert)?;
    Ok(fs::write(dir.join("https.key"), &identity.key)?)
}

#[tokio::test]
async fn files_are_replaced_on_sighup_and_what_does_not_fit_is_told_and_left() -> Outcome {
    let ca = Ca::new()?;
    let (mut cluster, address, before) = one(&ca).await?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    let here = document("Route", "state", "{response: {status: 200, body: here}}");
    cluster.cli().apply_and_wait(&here).await?;
    is_served(address, &ca, "node.test", &before).await?;
    let mut open = connect(address, &ca, "node.test").await?;
    ask(&mut open, "node.test").await?;

    let after = ca.server("node.test")?;
    let dir = cluster.node(1).dir.clone();
    fs::write(dir.join("https.pem"), &after.cert)?;
    cluster.node(1).hang_up()?;
    let log = cluster.node(1);
    eventually("the mismatch to be told", || {
        let log = log.log();
        async move {
            let told = log.contains("the certificate before stays in service")
                && log.contains("https.key: is not the key of the certificate");
            anyhow::ensure!(told, "{log}");
            Ok(())
        }
    })
    .await?;
    is_served(address, &ca, "node.test", &before).await?;
    write(&dir, &after)?;
    cluster.node(1).hang_up()?;
    eventually("the new certificate", || is_served(address, &ca, "node.test", &after)).await?;
    ask(&mut open, "node.test").await?;
    assert!(cluster.node(1).is_running());
    Ok(())
}

#[tokio::test]
async fn files_that_do_not_fit_stop_a_start_and_are_told_by_check() -> Outcome {
    let ca = Ca::new()?;
    let (mut cluster, ..) = one(&ca).await?;
    Run::offline(&["check", "node-1/node.toml"], cluster.dir(), &[]).await?.ok()?;
    fs::write(cluster.node(1).dir.join("https.key"), ca.server("node.test")?.key)?;
    let checked = Run::offline(&["check", "node-1/node.toml"], cluster.dir(), &[]).await?;
    assert_eq!(checked.code, 1);
    assert!(checked.stderr.contains("https.key: ") && checked.stderr.contains("is not the key"), "{}", checked.stderr);
    cluster.node(1).start()?;
    let status = cluster.node(1).exited(LIMIT).await?;
    let log = cluster.node(1).log();
    assert!(!status.success() && log.contains("is not the key of the certificate"), "{log}");
    Ok(())
}

#[tokio::test]
async fn certificates_of_the_configuration_are_hot_sealed_and_outlive_a_restart() -> Outcome {
    let ca = Ca::new()?;
    let (mut cluster, address, of_node) = one(&ca).await?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    let cli = cluster.cli();
    cli.apply_and_wait(&document("Route", "state", "{response: {status: 200, body: here}}")).await?;
    let [mut now, other] = [ca.server("www.test")?, ca.server("www.test")?];
    let refused = cli.run_with(&["apply", "-f", "-"], &certificate("www", "www.test", &now.cert, &other.key)).await?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("spec.key.value: is not the key of the certificate"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("PRIVATE"), "{}", refused.stderr);
    cli.apply_and_wait(&certificate("www", "www.test", &now.cert, &now.key)).await?;
    let mut open = connect(address, &ca, "www.test").await?;
    for _ in 0..20 {
        is_served(address, &ca, "www.test", &now).await?;
        now = ca.server("www.test")?;
        cli.apply_and_wait(&certificate("www", "www.test", &now.cert, &now.key)).await?;
        is_served(address, &ca, "www.test", &now).await?;
        ask(&mut open, "www.test").await?;
    }
    is_served(address, &ca, "node.test", &of_node).await?;
    let exported = cli.run(&["export"]).await?.ok()?.stdout;
    assert!(exported.contains("sealed:") && !exported.contains("PRIVATE"), "{exported}");
    let again = cli.run_with(&["apply", "-f", "-"], &exported).await?.ok()?;
    assert!(!again.stdout.contains("updated"), "{}", again.stdout);
    let metrics = cluster.client.get(&format!("{}/metrics", cluster.nodes[0].admin_url()), &[]).await?.text();
    for certificate in ["[https]", "www"] {
        assert!(
            metrics.contains(&format!("tollgate_certificate_expiry_seconds{{certificate=\"{certificate}\"}} ")),
            "{metrics}"
        );
    }
    let old = ca.server_until("old.test", 2020)?;
    let told = cli.apply(&certificate("old", "old.test", &old.cert, &old.key)).await?;
    assert!(told.stderr.contains("spec.certificate: has ended on 2020-01-01T00:00:00Z"), "{}", told.stderr);
    drop(open);
    cluster.node(1).kill()?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    eventually("the certificate after a restart", || is_served(address, &ca, "www.test", &now)).await?;
    let node = cluster.node(1);
    eventually("what has ended to be told", || {
        let log = node.log();
        async move {
            anyhow::ensure!(log.contains("a certificate has ended"), "{log}");
            Ok(())
        }
    })
    .await?;
    Ok(())
}
