//! nginx, as a peer and as the service behind both proxies.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tollgate_chaos_tests::{eventually, free_port};

/// What every instance begins with: one process in the foreground, with no logs and without an end of connections that only count.
const HEAD: &str = "daemon off; master_process off; pid nginx.pid; error_log stderr crit; worker_rlimit_nofile 65536;
events { worker_connections 65000; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; tcp_nodelay on; client_body_temp_path body;
proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n";

/// A running instance, killed and its files removed when it is dropped.
pub(super) struct Nginx {
    pub(super) address: SocketAddr,
    /// Where it takes HTTP/2 without TLS.
    pub(super) http2: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Nginx {
    /// A service that answers everything with 1 KB.
    pub(super) async fn service() -> anyhow::Result<Nginx> {
        let kilobyte = "0123456789abcdef".repeat(64);
        Nginx::start(&format!("location / {{ return 200 '{kilobyte}'; }}"), "").await
    }

    /// A plain proxy: `/v1` goes to `provider` as it comes, all else to `service`.
    pub(super) async fn proxy(service: SocketAddr, provider: &str) -> anyhow::Result<Nginx> {
        let pools: String = [("service", service.to_string().as_str()), ("provider", provider)]
            .map(|(name, to)| {
                format!(
                    "upstream {name} {{ server {to}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 600s; }}\n"
                )
            })
            .concat();
        let plain = "proxy_http_version 1.1; proxy_set_header connection ''; proxy_read_timeout 600s;";
        let places = format!(
            "location / {{ proxy_pass http://service; {plain} }}
             location /v1 {{ proxy_pass http://provider; proxy_buffering off; {plain} }}"
        );
        Nginx::start(&places, &pools).await
    }

    async fn start(places: &str, pools: &str) -> anyhow::Result<Nginx> {
        let dir = tempfile::Builder::new().prefix("tollgate-nginx-").tempdir()?;
        let (address, http2) = (free_port(), free_port());
        let servers = format!("server {{ listen {address}; listen {http2} http2; {places} }}\n");
        fs::write(dir.path().join("nginx.conf"), format!("{HEAD}{pools}{servers}}}\n"))?;
        let child = spawn(dir.path()).context("nginx does not start: is it installed?")?;
        let nginx = Nginx { address, http2, child, _dir: dir };
        eventually("nginx listens", || async { Ok(TcpStream::connect(address).await?) }).await?;
        Ok(nginx)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path) -> std::io::Result<Child> {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).args(["-e", "stderr"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()
}
