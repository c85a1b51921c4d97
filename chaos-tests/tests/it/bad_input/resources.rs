//! Resource files that are wrong in every way.

use tollgate_chaos_tests::{Cluster, Outcome, Plan, resources};

fn limit(name: &str, limit: &str) -> String {
    resources::document("Limit", name, &format!("{{unit: tokens, limit: {limit}, window: 1h}}"))
}

#[tokio::test]
async fn each_wrong_file_is_refused_with_its_place_and_changes_nothing() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let tenant = resources::tenant("acme");
    let deep = format!(
        "---\napiVersion: tollgate/v1\nkind: Tenant\nmetadata: {{name: a}}\nspec: {}1{}\n",
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    let large = tenant.replace("acme", &format!("acme, labels: {{a: \"{}\"}}", "x".repeat(20 << 20)));
    let cases: &[(&str, String, &[&str])] = &[
        ("broken", "---\nkind: [unclosed\nmetadata: {\n".into(), &[]),
        ("too deep", deep, &[]),
        ("too large", large, &[]),
        ("duplicate key", tenant.replace("spec:", "kind: Tenant\nspec:"), &["duplicate"]),
        ("unknown kind", tenant.replace("kind: Tenant", "kind: Tenent"), &["Tenent", "Tenant"]),
        ("unknown field", tenant.replace("mode: none", "mood: none"), &["mood", "mode", ":5:"]),
        ("wrong value", tenant.replace("mode: none", "mode: sometimes"), &["sometimes"]),
        ("missing reference", resources::route("r", "[{provider: nowhere}]", ""), &["nowhere"]),
        (
            "who waits for what has no bound",
            resources::document(
                "Service",
                "s",
                "{protocol: http, endpoints: [{address: \"127.0.0.1:1\"}], circuitBreaker: {maxPending: 1}}",
            ),
            &["circuitBreaker.maxPending", "maxConnections"],
        ),
        ("two limits of one name", limit("tpm", "100") + &limit("tpm", "200"), &["tpm", "is declared twice"]),
        ("a limit of 2 to the 63", limit("tpm", "9223372036854775808"), &["limit", "9223372036854775807"]),
        ("not text", "\u{0}\u{1}\u{2}".into(), &[]),
    ];
    std::fs::create_dir(cluster.dir().join("files"))?;
    for (what, yaml, words) in cases {
        let file = cluster.dir().join("files").join(format!("{}.yaml", what.replace(' ', "-")));
        std::fs::write(&file, yaml)?;
        let run = cluster.cli().run(&["apply", "-f", &file.to_string_lossy()]).await?;
        assert_eq!(run.code, 1, "{what}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.len() < 20_000 && !run.stderr.contains("panicked"), "{what}: {}", run.stderr);
        for word in *words {
            assert!(run.stderr.contains(word), "{what}: no {word:?} in {}", run.stderr);
        }
    }
    assert!(cluster.cli().rows(&["get", "tenants"]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn invalid_utf8_is_refused() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let file = cluster.dir().join("bad.yaml");
    std::fs::write(&file, b"kind: \xff\xfe\n")?;
    let run = cluster.cli().run(&["apply", "-f", &file.to_string_lossy()]).await?;
    assert_eq!(run.code, 1);
    assert!(run.stderr.to_lowercase().contains("utf-8"), "{}", run.stderr);
    Ok(())
}

#[tokio::test]
async fn the_verbs_refuse_what_they_cant_do_with_the_right_code() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let code = async |args: &[&str]| cluster.cli().run(args).await.map(|run| run.code);
    assert_eq!(code(&["no-such-verb"]).await?, 2);
    assert_eq!(code(&["get"]).await?, 2);
    assert_eq!(code(&["get", "tenant", "nobody"]).await?, 1);
    assert_eq!(code(&["delete", "tenant", "nobody"]).await?, 1);
    let later = cluster.cli().run(&["audit"]).await?;
    assert_eq!(later.code, 1);
    assert!(later.stderr.contains("not available yet"), "{}", later.stderr);
    let mut wrong = cluster.cli();
    wrong.token = "not a token".into();
    assert_eq!(wrong.run(&["get", "tenants"]).await?.code, 1);
    Ok(())
}
