//! Resource files: read, all of them, with every problem and its place.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use tollgate_admin::MAX_APPLY_BYTES;
use tollgate_model::{
    Kind, Problem, Problems,
    catalog::{Reference, missing, references_of, shared_credentials},
    yaml::{self, Examined},
};
use tollgate_proto::v1::{Metadata, Resource, resource};

/// Standard input.
const STDIN: &str = "-";
/// The field by which a resource is known.
const NAME: &str = "metadata.name";
/// What resource files end in; other files of a folder are left alone.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Resources, where they stood, and everything that is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Files {
    resources: Vec<Examined>,
    /// By themselves: not what they refer to.
    pub(super) problems: Problems,
    /// What stood behind broken syntax is not known, nor what can't be read at all.
    incomplete: bool,
}

impl Files {
    /// Reads files, the resource files of folders, and `-`, standard input. What can't be read is a problem as well.
    pub(super) fn read(paths: &[PathBuf]) -> Files {
        let mut files = Files::default();
        for path in paths {
            if path.as_os_str() == STDIN {
                files.take(STDIN, read_stdin());
            } else if path.is_dir() {
                match folder(path) {
                    Ok(found) => found.iter().for_each(|file| files.take_file(file)),
                    Err(error) => files.unreadable(&path.display().to_string(), &error),
                }
            } else {
                files.take_file(path);
            }
        }
        files.find_duplicates();
        files
    }

    /// One text.
    pub(super) fn of_text(name: &str, text: &str) -> Files {
        let mut files = Files::default();
        files.add(name, text);
        files.find_duplicates();
        files
    }

    fn take_file(&mut self, path: &Path) {
        self.take(&path.display().to_string(), read_file(path));
    }

    fn take(&mut self, name: &str, read: anyhow::Result<String>) {
        match read {
            Ok(text) => self.add(name, &text),
            Err(error) => self.unreadable(name, &error),
        }
    }

    fn unreadable(&mut self, name: &str, error: &anyhow::Error) {
        self.incomplete = true;
        self.problems.push(Problem {
            kind: None,
            name: String::new(),
            field: String::new(),
            message: format!("{name}: {error:#}"),
            at: None,
        });
    }

    fn add(&mut self, name: &str, text: &str) {
        let (examined, broken) = yaml::examine(name, text);
        for one in &examined {
            self.problems.extend(one.problems.clone());
        }
        self.incomplete |= !broken.is_empty();
        self.problems.extend(broken);
        self.resources.extend(examined);
    }

    /// A resource is declared once: the place of each, and that of the first.
    fn find_duplicates(&mut self) {
        let mut first: HashMap<(Kind, &str), &Examined> = HashMap::new();
        let mut twice = Problems::default();
        for one in self.resources.iter().filter(|one| !one.name.is_empty()) {
            let Some(kind) = one.kind else { continue };
            match first.entry((kind, &one.name)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(one);
                }
                Entry::Occupied(first) => twice.push(Problem {
                    kind: Some(kind),
                    name: one.name.clone(),
                    field: NAME.to_owned(),
                    message: format!("is declared twice: first at {}", first.get().index.locate(NAME)),
                    at: Some(one.index.locate(NAME)),
                }),
            }
        }
        self.problems.extend(twice);
    }

    /// How many resources there are.
    pub(super) fn len(&self) -> usize {
        self.resources.len()
    }

    /// What was read, in order: as much as could be.
    pub(super) fn resources(&self) -> Vec<Resource> {
        self.resources.iter().filter_map(|one| one.resource.clone()).collect()
    }

    /// Whether it is known which resources there are, if not what is in each.
    pub(super) fn all_are_named(&self) -> bool {
        !self.incomplete && self.resources.iter().all(|one| one.kind.is_some() && !one.name.is_empty())
    }

    /// References to what these files do not have, as if there were nothing else.
    pub(super) fn missing_references(&self) -> Problems {
        let named = |one: &Examined| one.kind.map(|kind| (kind, one.name.clone()));
        let known: BTreeSet<_> = self.resources.iter().filter_map(named).collect();
        let mut problems = Problems::default();
        for one in &self.resources {
            for Reference { field, kind, name } in one.resource.iter().flat_map(references_of) {
                if known.contains(&(kind, name.clone())) || !self.can_tell(kind, &name) {
                    continue;
                }
                let names = known.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.as_str());
                let message = format!("{} in these files", missing(kind, &name, names));
                let at = Some(one.index.locate(&field));
                problems.push(Problem { kind: one.kind, name: one.name.clone(), field, message, at });
            }
        }
        problems
    }

    /// API keys that several consumers of these files have.
    pub(super) fn shared_credentials(&self) -> Problems {
        let read: Vec<_> = self.resources.iter().filter_map(|one| Some((one, one.resource.as_ref()?))).collect();
        let shared = shared_credentials(read.iter().map(|(_, resource)| *resource)).into_iter().map(|shared| {
            let one = read[shared.resource].0;
            let at = Some(one.index.locate(&shared.field));
            Problem { kind: one.kind, name: one.name.clone(), field: shared.field, message: shared.message, at }
        });
        Problems(shared.collect())
    }

    /// Of the problems that a node found in these resources, those that are not among the files' own, at their places.
    pub(super) fn news(&self, found: Problems) -> Problems {
        let mut news: Problems = Problems(found.into_iter().filter(|problem| !self.knows(problem)).collect());
        self.place(&mut news);
        news
    }

    fn knows(&self, problem: &Problem) -> bool {
        let same = |other: &Problem| other.field == problem.field && other.message == problem.message;
        let of_it: Vec<_> = self.of(problem).collect();
        let checked = of_it.iter().any(|one| one.checked.iter().any(same));
        // Nodes name a duplicate by its place in the request, files by their lines.
        let duplicate = of_it.len() > 1 && problem.field.is_empty();
        let unknowable = reference(&of_it, problem).is_some_and(|it| !self.can_tell(it.kind, &it.name));
        checked || duplicate || unknowable
    }

    /// Whether a resource of this name, if it is in these files, is known to be.
    fn can_tell(&self, kind: Kind, name: &str) -> bool {
        let may_be = |one: &Examined| match (one.kind, one.name.as_str()) {
            (None, "") => true,
            (None, other) => other == name,
            (Some(other), "") => other == kind,
            (Some(_), _) => false,
        };
        !self.incomplete && !self.resources.iter().any(may_be)
    }

    /// Gives each problem that a node found the place of its field in these files.
    pub(super) fn place(&self, problems: &mut Problems) {
        for problem in problems.0.iter_mut().filter(|problem| problem.at.is_none()) {
            let of_it: Vec<_> = self.of(problem).collect();
            // Of two that are called the same, the one that the problem fits.
            let one = of_it.iter().find(|one| reference(&[one], problem).is_some()).or(of_it.first());
            problem.at = one.map(|one| one.index.locate(&problem.field));
        }
    }

    /// The resources that a problem may be about: several only where one is declared twice.
    fn of<'a>(&'a self, problem: &'a Problem) -> impl Iterator<Item = &'a Examined> {
        let is_it = |one: &&Examined| one.kind.is_some() && one.kind == problem.kind && one.name == problem.name;
        self.resources.iter().filter(is_it)
    }
}

/// The reference that a problem is about, if it is about one.
fn reference(resources: &[&Examined], problem: &Problem) -> Option<Reference> {
    let all = resources.iter().filter_map(|one| one.resource.as_ref()).flat_map(references_of);
    let named = |it: &Reference| it.field == problem.field && problem.message.contains(&format!("`{}`", it.name));
    all.into_iter().find(named)
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    let size = fs::metadata(path).context("can't be read")?.len();
    let fits = usize::try_from(size).is_ok_and(|size| size <= MAX_APPLY_BYTES);
    ensure!(fits, "is larger than {MAX_APPLY_BYTES} bytes");
    text(fs::read(path).context("can't be read")?)
}

fn text(bytes: Vec<u8>) -> anyhow::Result<String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("is UTF-16, not UTF-8: save it as UTF-8");
    }
    String::from_utf8(bytes).map_err(|error| {
        let (good, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        anyhow!("is not UTF-8 in line {line}: save it as UTF-8")
    })
}

/// Whether a path stands for whatever is piped in, and not for a file or a folder of its own.
pub(super) fn is_stream(path: &Path) -> bool {
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    path.as_os_str() == STDIN || path.starts_with("/dev") || path.starts_with("/proc") || special
}

/// Paths in a sentence.
pub(super) fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The resource files of a folder, by name; folders within it are not looked into.
fn folder(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).context("can't be read")? {
        let path = entry.context("can't be read")?.path();
        let wanted = path.extension().is_some_and(|ending| ENDINGS.iter().any(|wanted| ending == *wanted));
        if wanted && path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("has no file that ends in .yaml, .yml or .json");
    }
    found.sort();
    Ok(found)
}

fn read_stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_APPLY_BYTES).expect("a small constant");
    io::stdin().take(limit + 1).read_to_end(&mut bytes).context("can't be read")?;
    ensure!(bytes.len() <= MAX_APPLY_BYTES, "is larger than {MAX_APPLY_BYTES} bytes");
    text(bytes)
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
        Some(resource::Kind::Certificate(it)) => (Kind::Certificate, it.metadata.as_ref()),
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

    fn told(problems: &Problems) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    fn files(texts: &[&str]) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a.yaml", "b.yaml", "c.yaml"];
        for (name, text) in names.iter().zip(texts) {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut files = Files::read(&[dir.path().to_owned()]);
        let folder = format!("{}/", dir.path().display());
        for problem in &mut files.problems.0 {
            problem.message = problem.message.replace(&folder, "");
        }
        files
    }

    fn document(kind: &str, name: &str, spec: &str) -> String {
        format!("---\napiVersion: tollgate/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    }

    #[test]
    fn what_is_not_there_or_not_text_is_named_beside_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("binary.yaml"), b"a: b\nc: \xff\xfe").unwrap();
        fs::write(path("wide.yaml"), [0xff, 0xfe, b'a', 0]).unwrap();
        fs::write(path("wrong.yaml"), document("Tenant", "a", "{x: 1}")).unwrap();
        fs::create_dir(path("empty")).unwrap();
        let names = ["missing.yaml", "binary.yaml", "wide.yaml", "empty", "wrong.yaml"];
        let found = told(&Files::read(&names.map(path)).problems);
        let expected = [
            "missing.yaml: can't be read: ",
            "binary.yaml: is not UTF-8 in line 2",
            "wide.yaml: is UTF-16, not UTF-8",
            "empty: has no file that ends in .yaml",
            "wrong.yaml:5:8: tenant a: spec.x: unknown field `x`",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }

    #[test]
    fn a_resource_that_is_there_twice_is_told_with_both_places_whatever_else_is_wrong() {
        let one = document("Tenant", "acme", "{xyz: 1}");
        let files = files(&[&(one.clone() + &document("Route", "acme", "{response: {}}")), &one, "["]);
        let found = told(&files.problems);
        let [.., twice] = &found[..] else { panic!("{found:?}") };
        assert!(twice.contains("b.yaml:4:18: tenant acme: metadata.name: is declared twice: first at "), "{twice}");
        assert!(twice.ends_with("a.yaml:4:18"), "{twice}");
        assert_eq!(found.len(), 4, "two unknown fields, broken syntax, and this: {found:#?}");
    }

    #[test]
    fn references_are_told_beside_everything_else_where_they_can_be_known() {
        let route = document("Route", "r", "{backends: [{provider: openia}, {service: nowhere}], bodyLimit: 5}");
        let provider = document("Provider", "openai", "{type: openai, x: 1}");
        let found = files(&[&(route.clone() + &provider)]);
        let fields: Vec<_> = found.missing_references().iter().map(|it| it.field.clone()).collect();
        assert_eq!(fields, ["spec.backends[0].provider", "spec.backends[1].service"]);
        let told = told(&found.missing_references());
        assert!(told[0].contains("a.yaml:5:30: route r: "), "{told:?}");
        assert!(told[0].ends_with("there is no provider `openia` (did you mean `openai`?) in these files"), "{told:?}");
        // A provider without a name may be the one.
        let nameless = files(&[&(route.clone() + &document("Provider", "''", "{type: openai}"))]);
        let fields: Vec<_> = nameless.missing_references().iter().map(|it| it.field.clone()).collect();
        assert_eq!(fields, ["spec.backends[1].service"]);
        let of_no_kind = files(&[&(route.clone() + &document("Servic", "nowhere", "{}"))]);
        let fields: Vec<_> = of_no_kind.missing_references().iter().map(|it| it.field.clone()).collect();
        assert_eq!(fields, ["spec.backends[0].provider"]);
        // And so may whatever stands behind broken syntax.
        assert!(files(&[&route, "["]).missing_references().is_empty());
    }

    #[test]
    fn an_api_key_that_two_consumers_share_is_told_at_every_place_beside_the_rest() {
        let consumer = |name: &str, keys: &[&str]| {
            let keys: Vec<_> = keys.iter().map(|key| format!("{{apiKey: {key}}}")).collect();
            document("Consumer", name, &format!("{{tenant: t, credentials: [{}]}}", keys.join(", ")))
        };
        let twice = "sk-one-and-the-same";
        let found = files(&[
            &consumer("x", &[twice, twice]),
            &(consumer("y", &["sk-of-its-own", twice]) + &consumer("z", &[twice])),
        ]);
        assert_eq!(found.problems.len(), 1, "x has it twice: {}", found.problems);
        let told = told(&found.shared_credentials());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("b.yaml:5:58: consumer y: spec.credentials[1]: has an API key"), "{told:?}");
        assert!(told[0].ends_with("that consumer `x` has") && told[1].contains("consumer z: spec.credentials[0]"));
        assert!(!told.concat().contains("sk-"), "{told:?}");
        assert!(files(&[&consumer("x", &[twice]), &consumer("y", &["another-one"])]).shared_credentials().is_empty());
    }

    #[test]
    fn what_a_node_finds_is_told_once_and_at_its_place() {
        let route = document("Route", "r", "{backends: [{provider: a}], bodyLimit: 5, timeoutz: {}}");
        let files = files(&[&route, &document("Route", "r", "{backends: [{provider: b}]}")]);
        let problem = |field: &str, message: &str| Problem {
            kind: Some(Kind::Route),
            name: "r".into(),
            field: field.into(),
            message: message.into(),
            at: None,
        };
        let size = files.resources[0].checked.0[0].clone();
        let found = Problems(vec![
            problem(&size.field, &size.message),
            problem("", "is there twice: as resource 0 and 1 of the request"),
            problem("spec.backends[0].provider", "there is no provider `b`"),
        ]);
        let news = told(&files.news(found));
        assert_eq!(news.len(), 1, "{news:?}");
        assert!(news[0].contains("b.yaml:5:30: route r: spec.backends[0].provider"), "{news:?}");
    }
}
