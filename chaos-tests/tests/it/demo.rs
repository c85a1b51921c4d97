//! `tollgate demo` and `tollgate mock-llm`, as the README shows them.

use std::time::Duration;

use tollgate_chaos_tests::{
    Demo, Outcome, ProviderProcess, Run,
    calls::Call,
    client::{Client, LIMIT},
};

#[tokio::test]
async fn a_demo_is_ready_serves_its_consumers_and_outlives_a_node() -> Outcome {
    let mut demo = Demo::start(3).await?;
    assert_eq!((demo.nodes.len(), demo.providers.len(), demo.consumers.len()), (3, 2, 2));
    assert!(demo.nodes.iter().all(|node| node.config.is_absolute() && node.data_dir.is_absolute()));
    assert!(demo.took < Duration::from_secs(30), "{:?}", demo.took);
    assert!(demo.output().contains("curl"), "{}", demo.output());
    let client = Client::new();
    for consumer in &demo.consumers {
        for node in &demo.nodes {
            let answer = client.send(Call::chat(&consumer.api_key, "mock-1").request(&node.http), LIMIT).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    demo.kill(&demo.nodes[0].clone())?;
    let rows = demo.cli().rows(&["cluster", "status"]).await?;
    assert_eq!(rows.len(), 3, "{rows:?}");
    let answer =
        client.send(Call::messages(&demo.consumers[0].api_key, "mock-1").request(&demo.nodes[1].http), LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(demo.is_running());
    Ok(())
}

#[tokio::test]
async fn a_demo_that_could_not_write_its_ready_file_does_not_start() -> Outcome {
    let dir = tempfile::tempdir()?;
    let run = Run::offline(&["demo", "--ready-file", "absent/ready.json"], dir.path(), &[]).await?;
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("--ready-file: absent is not a folder"), "{}", run.stderr);
    Ok(())
}

#[tokio::test]
async fn the_simulated_provider_runs_by_itself() -> Outcome {
    let provider = ProviderProcess::start(&["--knob", "output=3"]).await?;
    let client = Client::new();
    let answer = client.send(Call::chat("any", "mock-1").request(&provider.url), LIMIT).await?;
    assert_eq!(answer.json()?["usage"]["completion_tokens"], 3);
    let witness = client.get(&format!("{}/__mock/witness", provider.url), &[]).await?.json()?;
    assert_eq!(witness["total"]["output_tokens"], 3);
    Ok(())
}
