//! The access log: a line for each request, in a file that is rotated as others are.

use std::{fs, path::Path};

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan,
    calls::Call,
    client::{LIMIT, request},
    eventually,
    resources::api_key,
};

const LOG: &str = "
[access_log]
file = \"access.log\"
sample = \"0%\"
fields = [\"request_id\", \"status\", \"consumer\", \"model\", \"end\", \"queue_ms\", \"connect_ms\", \"first_byte_ms\", \"duration_ms\"]
";

#[tokio::test]
async fn what_failed_is_always_there_and_a_file_that_was_moved_away_is_made_anew() -> Outcome {
    let plan = Plan { nodes: 1, more_toml: LOG.to_owned(), ..Plan::default() };
    let mut cluster = Cluster::with(plan).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let origin = &cluster.origins()[0];
    let (file, moved) = (cluster.nodes[0].dir.join("access.log"), cluster.nodes[0].dir.join("access.log.1"));

    // Of what ends well a part is told, here none; of what does not, all.
    let fine = Call::chat(&api_key("alice"), "mock-1").request(origin);
    assert_eq!(cluster.client.send(fine, LIMIT).await?.status, 200);
    let fails = Call::chat(&api_key("alice"), "mock-1-500").request(origin);
    let failed = cluster.client.send(fails, LIMIT).await?;
    assert_eq!(failed.status, 502);
    let told = lines(&file, 1).await?;
    let line = &told[0];
    assert_eq!(line["request_id"], failed.header("x-request-id"));
    assert_eq!(
        (&line["status"], &line["consumer"], &line["model"]),
        (&502.into(), &"alice".into(), &"mock-1-500".into())
    );
    let ms = |name: &str| line[name].as_f64().unwrap_or(-1.0);
    let in_order = [0.0, ms("queue_ms"), ms("first_byte_ms"), ms("duration_ms")];
    assert!(in_order.is_sorted() && line.get("route").is_none(), "{line}");

    fs::rename(&file, &moved)?;
    cluster.nodes[0].hang_up()?;
    eventually("the file is there again", || async { Ok(fs::metadata(&file)?) }).await?;
    let nowhere = request(http::Method::GET, &format!("{origin}/nowhere"), &[], bytes::Bytes::new());
    assert_eq!(cluster.client.send(nowhere, LIMIT).await?.status, 404);
    // What nobody waits for is in the file when the node has left.
    cluster.nodes[0].terminate()?;
    assert!(cluster.nodes[0].exited(LIMIT).await?.success());
    assert_eq!((lines(&moved, 1).await?.len(), lines(&file, 1).await?[0]["status"].clone()), (1, 404.into()));
    Ok(())
}

/// So many lines, once they are there: each a JSON object.
async fn lines(file: &Path, count: usize) -> anyhow::Result<Vec<Value>> {
    eventually("the lines are in the file", || async {
        let text = fs::read_to_string(file)?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        anyhow::ensure!(lines.len() == count, "{text}");
        Ok(lines)
    })
    .await
}
