//! Resource files: read, all of them, with every problem and its place.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use tollgate_admin::MAX_APPLY_BYTES;
use tollgate_model::{
    Kind, Problem, Problems,
    yaml::{self, Parsed},
};
use tollgate_proto::v1::{Metadata, Resource, resource};

/// Standard input.
const STDIN: &str = "-";
/// What resource files end in; other files of a folder are left alone.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Resources and where they stood.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) parsed: Vec<Parsed>,
    pub(super) problems: Problems,
}

impl Files {
    /// Reads files, the resource files of folders, and `-`, standard input.
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Files> {
        let mut files = Files::default();
        for path in paths {
            if path.as_os_str() == STDIN {
                files.add(STDIN, &read_stdin()?);
            } else if path.is_dir() {
                for file in folder(path)? {
                    files.add_file(&file)?;
                }
            } else {
                files.add_file(path)?;
            }
        }
        Ok(files)
    }

    /// One text.
    pub(super) fn of_text(name: &str, text: &str) -> Files {
        let mut files = Files::default();
        files.add(name, text);
        files
    }

    fn add_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.display().to_string();
        let size = fs::metadata(path).with_context(|| format!("can't read {name}"))?.len();
        ensure!(
            usize::try_from(size).is_ok_and(|size| size <= MAX_APPLY_BYTES),
            "{name}: is larger than {MAX_APPLY_BYTES} bytes"
        );
        let bytes = fs::read(path).with_context(|| format!("can't read {name}"))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))?;
        self.add(&name, &text);
        Ok(())
    }

    fn add(&mut self, name: &str, text: &str) {
        let (parsed, problems) = yaml::parse(name, text);
        self.parsed.extend(parsed);
        self.problems.extend(problems);
    }

    /// What was read, in order.
    pub(super) fn resources(&self) -> Vec<Resource> {
        self.parsed.iter().map(|parsed| parsed.resource.clone()).collect()
    }

    /// Gives each problem that a node found the place of its field in these files.
    pub(super) fn place(&self, problems: &mut Problems) {
        for problem in problems.0.iter_mut().filter(|problem| problem.at.is_none()) {
            problem.at = self.find(problem).map(|parsed| parsed.index.locate(&problem.field));
        }
    }

    fn find(&self, problem: &Problem) -> Option<&Parsed> {
        self.parsed.iter().find(|parsed| {
            let (kind, metadata) = identity(&parsed.resource);
            kind == problem.kind && metadata.is_some_and(|metadata| metadata.name == problem.name)
        })
    }
}

/// The resource files of a folder, by name; folders within it are not looked into.
fn folder(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = path.display();
    let mut found = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("can't read {name}"))? {
        let path = entry.with_context(|| format!("can't read {name}"))?.path();
        let wanted = path.extension().is_some_and(|ending| ENDINGS.iter().any(|wanted| ending == *wanted));
        if wanted && path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("{name} has no file that ends in .yaml, .yml or .json");
    }
    found.sort();
    Ok(found)
}

fn read_stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_APPLY_BYTES).expect("a small constant");
    io::stdin().take(limit + 1).read_to_end(&mut bytes).context("can't read standard input")?;
    ensure!(bytes.len() <= MAX_APPLY_BYTES, "standard input is larger than {MAX_APPLY_BYTES} bytes");
    String::from_utf8(bytes).context("standard input is not UTF-8")
}

/// What a resource is, and its metadata.
pub(super) fn identity(resource: &Resource) -> (Option<Kind>, Option<&Metadata>) {
    let (kind, metadata) = match &resource.kind {
        Some(resource::Kind::Service(it)) => (Kind::Service, it.metadata.as_ref()),
        Some(resource::Kind::Provider(it)) => (Kind::Provider, it.metadata.as_ref()),
        Some(resource::Kind::Route(it)) => (Kind::Route, it.metadata.as_ref()),
        Some(resource::Kind::Tenant(it)) => (Kind::Tenant, it.metadata.as_ref()),
        Some(resource::Kind::Consumer(it)) => (Kind::Consumer, it.metadata.as_ref()),
        Some(resource::Kind::Limit(it)) => (Kind::Limit, it.metadata.as_ref()),
        Some(resource::Kind::Price(it)) => (Kind::Price, it.metadata.as_ref()),
        None => return (None, None),
    };
    (Some(kind), metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_resource_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "c.yml", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("d.yaml")).unwrap();
        let found = folder(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.json", "b.yaml", "c.yml"]);
    }

    #[test]
    fn what_is_not_there_or_not_text_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.yaml");
        assert!(Files::read(&[missing]).unwrap_err().to_string().contains("missing.yaml"));
        let binary = dir.path().join("binary.yaml");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(Files::read(&[binary]).unwrap_err().to_string().contains("is not UTF-8"));
        fs::remove_file(dir.path().join("binary.yaml")).unwrap();
        assert!(folder(dir.path()).unwrap_err().to_string().contains("no file that ends in .yaml"));
    }
}
