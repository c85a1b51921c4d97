//! A plain secret is nowhere: not on disk, not in a log, not in an answer.

use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::LIMIT,
    faults::files,
    resources::{api_key, provider_key},
};

#[tokio::test]
async fn no_file_log_or_answer_holds_a_plain_secret() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let secrets = [api_key("alice"), provider_key("mock"), cluster.token.clone()];
    for origin in cluster.origins() {
        cluster.client.send(Call::chat(&api_key("alice"), "mock-1").request(&origin), LIMIT).await?;
        cluster.client.send(Call::chat(&api_key("alice"), "mock-1-500").request(&origin), LIMIT).await?;
    }
    let mut said = String::new();
    for args in
        [&["get", "providers", "-o", "yaml"][..], &["get", "consumers", "-o", "json"], &["export"], &["token", "list"]]
    {
        let run = cluster.cli().run(args).await?;
        said += &(run.stdout + &run.stderr);
    }
    for node in &cluster.nodes {
        said += &cluster.client.get(&format!("{}/metrics", node.admin_url()), &[]).await?.text();
        said += &node.log();
    }
    for node in &mut cluster.nodes {
        node.kill()?;
        for secret in &secrets {
            assert_eq!(files::holding(&node.data_dir(), secret)?, Vec::<std::path::PathBuf>::new());
        }
    }
    for secret in &secrets {
        assert!(!said.contains(secret), "{secret} was said");
    }
    Ok(())
}
