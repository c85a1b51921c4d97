//! A TCP relay before a node's peer port: delays, stalls and cuts what others send to that node and what it answers.
//!
//! It runs on a thread of its own, so that a test that works hard or blocks for a moment delays no heartbeat.

use std::{io, net::SocketAddr, thread, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::watch,
    task::JoinSet,
    time,
};

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 16 << 10;

/// What a relay does with connections, open and new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Passes everything on, each piece this much later.
    Delay(Duration),
    /// Accepts, reads nothing and answers nothing: a black hole.
    Hold,
    /// Closes open connections at once, and new ones as soon as they are there.
    Cut,
}

/// One relay. Dropping it cuts everything.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Relay {
    /// A relay on a free port to `target`.
    ///
    /// # Errors
    /// No port or thread is to be had.
    pub fn start(target: SocketAddr) -> anyhow::Result<Relay> {
        let listener = std::net::TcpListener::bind(crate::free_port())?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("relay".into()).spawn(move || {
            // An accept that fails ends the relay, and the test finds its peers cut off.
            let _ = runtime.block_on(accept(listener, target, modes));
        })?;
        Ok(Relay { address, mode })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// Ends when the relay is dropped.
async fn accept(
    listener: std::net::TcpListener,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(relay(accepted?.0, target, modes.clone()));
            }
            Some(_) = connections.join_next() => (),
            changed = modes.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Ends with either side, or with a cut.
async fn relay(client: TcpStream, target: SocketAddr, modes: watch::Receiver<Mode>) -> io::Result<()> {
    let mut cut = modes.clone();
    let pass = async {
        passing(&mut modes.clone()).await?;
        let server = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            done = pump(from_client, to_server, modes.clone()) => done,
            done = pump(from_server, to_client, modes.clone()) => done,
        }
    };
    tokio::select! {
        done = pass => done,
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => Ok(()),
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        let delay = passing(&mut modes).await?;
        if length == 0 {
            return Ok(());
        }
        if !delay.is_zero() {
            time::sleep(delay).await;
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Waits while the relay holds; how much later a piece goes on.
async fn passing(modes: &mut watch::Receiver<Mode>) -> io::Result<Duration> {
    let mode = modes.wait_for(|mode| *mode != Mode::Hold).await.map_err(io::Error::other)?;
    Ok(if let Mode::Delay(delay) = *mode { delay } else { Duration::ZERO })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exchange(socket: &mut TcpStream, limit: Duration) -> Option<u8> {
        socket.write_all(b"x").await.ok()?;
        time::timeout(limit, socket.read_u8()).await.ok()?.ok()
    }

    #[tokio::test]
    async fn a_relay_passes_holds_goes_on_and_cuts() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(echo.local_addr().unwrap()).unwrap();
        let mut echoes = JoinSet::new();
        echoes.spawn(async move {
            let mut socket = echo.accept().await.unwrap().0;
            while let Ok(byte) = socket.read_u8().await {
                socket.write_u8(byte).await.unwrap();
            }
        });
        let mut socket = TcpStream::connect(relay.address()).await.unwrap();
        assert_eq!(exchange(&mut socket, Duration::from_secs(10)).await, Some(b'x'));
        relay.set(Mode::Hold);
        assert_eq!(exchange(&mut socket, Duration::from_millis(100)).await, None);
        relay.set(Mode::Pass);
        assert_eq!(time::timeout(Duration::from_secs(10), socket.read_u8()).await.unwrap().unwrap(), b'x');
        relay.set(Mode::Cut);
        assert!(time::timeout(Duration::from_secs(10), socket.read_u8()).await.unwrap().is_err());
    }
}
