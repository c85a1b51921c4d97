//! Memory for what is open and says nothing.

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tollgate_chaos_tests::{
    calls::Call,
    client::{EventStream, LIMIT},
    figure::Figure,
    resources::api_key,
};

use super::scene::{CONSUMER, Scene, Side};

/// The answer of the service, without its head.
const ANSWER: usize = 1_024;

/// Each of a process that had nothing else to keep: what was let go of stays with an allocator, and the next one has it for nothing.
pub(super) async fn measure(count: usize) -> anyhow::Result<Vec<Figure>> {
    let (mut of_streams, mut of_idle) = (Vec::new(), Vec::new());
    let scene = Scene::start().await?;
    for side in &scene.sides()? {
        // What the first ones bring with them is no stream's, and no connection's.
        let first = streams(&scene, side, count / 10).await?;
        let before = side.resident()?;
        let open = streams(&scene, side, count).await?;
        of_streams.push(each(side.resident()?.saturating_sub(before), count));
        drop((first, open));
    }
    drop(scene);
    let scene = Scene::start().await?;
    for side in &scene.sides()? {
        let first = idle(side, count / 10).await?;
        let before = side.resident()?;
        let open = idle(side, count).await?;
        of_idle.push(each(side.resident()?.saturating_sub(before), count));
        drop((first, open));
    }
    let told = |all: &[f64]| format!("of {count}; nginx {:.1} KB", all[1]);
    Ok(vec![
        Figure::new("memory of an open stream", of_streams[0], "KB").at_most(24.0).detail(told(&of_streams)),
        Figure::new("memory of an idle connection", of_idle[0], "KB").at_most(10.0).detail(told(&of_idle)),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn each(bytes: u64, count: usize) -> f64 {
    bytes as f64 / 1_024.0 / count as f64
}

/// Streams whose first event is there, and whose next is far.
async fn streams(scene: &Scene, side: &Side, count: usize) -> anyhow::Result<Vec<EventStream>> {
    let call = Call::chat(&api_key(CONSUMER), "mock-1+pace=600s+output=16").stream();
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let mut events = scene.client.open(call.request(&side.origin), LIMIT).await?;
        anyhow::ensure!(events.status == 200, "{}, stream {number}: {}", side.name, events.status);
        events.next().await.ok().with_context(|| format!("{}, stream {number} ends at once", side.name))?;
        open.push(events);
    }
    Ok(open)
}

/// Connections that had one answer.
async fn idle(side: &Side, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let address = side.origin.strip_prefix("http://").context("it has an http URL")?;
    let request = format!("GET /plain HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let (mut got, mut part) = (Vec::new(), [0; 4_096]);
        while got.len() <= ANSWER || !got.ends_with(b"cdef") {
            let read = stream.read(&mut part).await?;
            anyhow::ensure!(read > 0, "{}, connection {number} is closed", side.name);
            got.extend_from_slice(&part[..read]);
        }
        anyhow::ensure!(got.starts_with(b"HTTP/1.1 200"), "{}: {}", side.name, String::from_utf8_lossy(&got));
        open.push(stream);
    }
    Ok(open)
}
