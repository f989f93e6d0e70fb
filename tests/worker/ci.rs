//! `ci.build`: what it keeps between builds, what it says of tests, and builds in containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use siskin::model::Outcome;

use super::bench::{Bench, Seen, attempt};

struct World {
    bench: Bench,
    folder: tempfile::TempDir,
    steps: u32,
    config: Value,
}

impl World {
    fn new() -> World {
        let world =
            World { bench: Bench::new(), folder: tempfile::tempdir().unwrap(), steps: 0, config: json!({}) };
        fs::create_dir_all(world.origin().join("script")).unwrap();
        world.git(&["init", "--quiet", "--initial-branch=main"]);
        world
    }

    fn origin(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    fn git(&self, words: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.origin())
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, build: &str) -> String {
        let script = self.origin().join("script/cibuild");
        fs::write(&script, build).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.origin().join("fpm.json"), r#"{"version": "1"}"#).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// A build of a run of its own: nothing but what is kept is there.
    async fn build(&mut self, commit: &str, more: Value) -> Seen {
        let mut input =
            json!({"repository": format!("file://{}", self.origin().display()), "commit": commit});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut attempt = attempt("native", "ci.build", input);
        self.steps += 1;
        attempt.key.step = format!("step{}", self.steps);
        attempt.work.config = self.config.clone();
        let workspace = self.bench.workspace();
        if workspace.exists() {
            fs::remove_dir_all(workspace).unwrap();
        }
        self.bench.done(attempt).await
    }

    fn kept(&self) -> PathBuf {
        self.bench.data.path().join("cache/git")
    }
}

fn copies(folder: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    items.filter(|path| path.is_dir()).collect()
}

#[tokio::test]
async fn a_second_build_asks_the_repository_only_for_what_is_new() {
    let mut world = World::new();
    let first = world.commit("#!/bin/sh\necho built $GIT_COMMIT\n");
    let second = world.commit("#!/bin/sh\necho second\n");
    assert_eq!(world.build(&second, json!({})).await.output()["commit"], json!(second));
    assert_eq!(copies(&world.kept()).len(), 1);
    // What is known is built while the repository is away.
    let away = world.folder.path().join("away");
    fs::rename(world.origin(), &away).unwrap();
    let seen = world.build(&first, json!({})).await;
    assert_eq!(seen.stdout, format!("built {first}\n"));
    fs::rename(&away, world.origin()).unwrap();
    // A commit that no branch has any more, as after a push by force, and one that never was.
    let lost = world.commit("#!/bin/sh\necho lost\n");
    world.git(&["reset", "--quiet", "--hard", &first]);
    world.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    assert_eq!(world.build(&lost, json!({})).await.stdout, "lost\n");
    let seen = world.build(&"0".repeat(40), json!({})).await;
    assert!(seen.error().message.contains("is not in file://"), "{seen:?}");
    // A copy that was damaged is no reason not to build.
    let copy = copies(&world.kept()).remove(0);
    fs::remove_dir_all(copy.join(".git/objects")).unwrap();
    fs::write(copy.join(".git/objects"), "").unwrap();
    assert_eq!(world.build(&first, json!({})).await.stdout, format!("built {first}\n"));
    assert_eq!(world.build(&second, json!({})).await.stdout, "second\n");
}

#[tokio::test]
async fn what_a_build_keeps_the_next_one_finds() {
    let mut world = World::new();
    let commit = world.commit("#!/bin/sh\ncat deps/made 2>/dev/null || echo nothing\nmkdir -p deps; echo here >deps/made\n[ -z \"$FAIL\" ]\n");
    let cached = json!({"cache": ["deps"]});
    let first = world.build(&commit, cached.clone()).await;
    assert_eq!((first.stdout.as_str(), &first.output()["cache"]), ("nothing\n", &json!(false)));
    let second = world.build(&commit, cached.clone()).await;
    assert_eq!((second.stdout.as_str(), &second.output()["cache"]), ("here\n", &json!(true)), "{second:?}");
    let other = world.build(&commit, json!({"cache": ["deps"], "cache_key": "other"})).await;
    assert_eq!(other.stdout, "nothing\n");
    let seen = world.build(&commit, json!({"cache": ["../x"]})).await;
    assert!(seen.error().message.contains("is no path within the repository"), "{seen:?}");
}

#[tokio::test]
async fn the_tests_of_a_build_are_told_also_when_it_fails() {
    let mut world = World::new();
    let build = "#!/bin/sh\nmkdir -p out\ncat >out/TEST-a.xml <<END\n<testsuite><testcase name='adds' classname='Sums'><failure message='1 is not 2'/></testcase><testcase name='fine'/></testsuite>\nEND\nexit 3\n";
    let commit = world.commit(build);
    let seen = world.build(&commit, json!({"junit": ["out/*.xml", "none/*.xml"]})).await;
    let Outcome::Failed { error, output } = &seen.outcome else { panic!("{seen:?}") };
    assert!(error.message.contains("script/cibuild failed"), "{error}");
    let tests = &output["tests"];
    assert_eq!((&tests["total"], &tests["passed"], &tests["failed"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(tests["failures"], json!([{"name": "adds", "class": "Sums", "message": "1 is not 2"}]));
    assert!(seen.notes.contains("no report meets `none/*.xml`"), "{}", seen.notes);
}

/// Takes the place of an engine: notes what it was asked, and runs the script as it is.
const ENGINE: &str = r#"#!/bin/sh
echo "$@" >>"$(dirname "$0")/asked"
[ "$1" = run ] || exit 0
while [ "$1" != --entrypoint ]; do
  [ "$1" != --workdir ] || cd "$2"
  shift
done
exec "$2"
"#;

#[tokio::test]
async fn in_a_container_the_same_scripts_run_and_nothing_is_left() {
    let mut world = World::new();
    let engine = world.folder.path().join("docker");
    fs::write(&engine, ENGINE).unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    world.config = json!({"engine": engine});
    let commit = world.commit("#!/bin/sh\necho \"in $PWD on $GIT_BRANCH\"\n");
    let seen = world.build(&commit, json!({"container": "debian:12", "branch": "$(reboot)"})).await;
    let source = world.bench.workspace().join("source");
    assert_eq!(seen.stdout, format!("in {} on $(reboot)\n", source.display()), "{seen:?}");
    let asked = fs::read_to_string(world.folder.path().join("asked")).unwrap();
    let asked: Vec<&str> = asked.lines().collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[0].starts_with("rm --force siskin-") && asked[2] == asked[0], "{asked:?}");
    assert!(asked[1].contains(" debian:12") && !asked[1].contains("reboot"), "{asked:?}");
    let seen = world.build(&commit, json!({"container": "--privileged"})).await;
    assert!(seen.error().message.contains("is no image"), "{seen:?}");
}
