//! The program under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Names a finished program, so that nothing is built.
const BIN: &str = "TOLLGATE_BIN";
/// The same for the one with failpoints.
const FAILPOINTS_BIN: &str = "TOLLGATE_FAILPOINTS_BIN";

/// The program: `TOLLGATE_BIN`, or built once, in the profile and the target directory of the running test.
///
/// # Panics
/// It can't be built: no test of a process can go on.
pub fn tollgate() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| finished(BIN).unwrap_or_else(|| build(&target_dir(), &[])))
}

/// The program that can be told to end at a named place (`storage/src/failpoints.rs`): `TOLLGATE_FAILPOINTS_BIN`, or built
/// once. Its target directory is its own, as both programs have the same name.
///
/// # Panics
/// It can't be built.
pub fn tollgate_with_failpoints() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let build = || build(&target_dir().join("failpoints"), &["--features", "failpoints"]);
    PATH.get_or_init(|| finished(FAILPOINTS_BIN).unwrap_or_else(build))
}

fn finished(variable: &str) -> Option<PathBuf> {
    let path = env::var_os(variable)?;
    Some(std::path::absolute(&path).expect("the working directory is there"))
}

fn build(target: &Path, more: &[&str]) -> PathBuf {
    let profile_dir = profile_dir();
    let name = profile_dir.file_name().and_then(|name| name.to_str()).expect("profiles have plain names");
    let profile = if name == "debug" { "dev" } else { name };
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "tollgate-node", "--bin", "tollgate", "--profile", profile])
        .args(more)
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the tollgate binary does not build");
    target.join(name).join("tollgate")
}

fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile's directory is in a target directory").to_owned()
}

/// A test's executable is `<target>/<profile>/deps/<name>-<hash>`.
fn profile_dir() -> PathBuf {
    let test = env::current_exe().expect("a running test has an executable");
    let mut dirs = test.ancestors().skip(1);
    let dir = dirs.find(|dir| !dir.ends_with("deps") && !dir.ends_with("examples"));
    dir.expect("cargo puts tests below a profile's directory").to_owned()
}
