//! The program under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Names a finished program, so that nothing is built.
const BIN: &str = "TOLLGATE_BIN";

/// The program: `TOLLGATE_BIN`, or built once, in the profile and the target directory of the running test.
///
/// # Panics
/// It can't be built: no test of a process can go on.
pub fn tollgate() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match env::var_os(BIN) {
        Some(path) => std::path::absolute(&path).expect("the working directory is there"),
        None => build(),
    })
}

fn build() -> PathBuf {
    let profile_dir = profile_dir();
    let target = profile_dir.parent().expect("a profile's directory is in a target directory");
    let name = profile_dir.file_name().and_then(|name| name.to_str()).expect("profiles have plain names");
    let profile = if name == "debug" { "dev" } else { name };
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "tollgate-node", "--bin", "tollgate", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the tollgate binary does not build");
    profile_dir.join("tollgate")
}

/// A test's executable is `<target>/<profile>/deps/<name>-<hash>`.
fn profile_dir() -> PathBuf {
    let test = env::current_exe().expect("a running test has an executable");
    let mut dirs = test.ancestors().skip(1);
    let dir = dirs.find(|dir| !dir.ends_with("deps") && !dir.ends_with("examples"));
    dir.expect("cargo puts tests below a profile's directory").to_owned()
}
