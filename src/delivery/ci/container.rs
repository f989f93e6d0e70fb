//! Builds in a container: the scripts of the convention in an image, with the workspace at its own path.
//!
//! Podman or Docker is asked by its program, with arguments and no shell. What the engine runs does not end with its client, so a container has a name that
//! all attempts of a step share: it is ended when the script has ended, was cancelled or ran out of time, and, when we were killed, before the next attempt.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::CiError;
use crate::model::Span;
use crate::process::{self, Command};

/// The engines that are looked for, in this order.
const ENGINES: [&str; 2] = ["podman", "docker"];
const END_WITHIN: Span = Span::minutes(1);

/// Where a build runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    engine: String,
    image: String,
    name: String,
    workspace: PathBuf,
}

impl Container {
    /// `engine` is a program; one that is installed when not said.
    pub fn new(engine: Option<&str>, image: &str, name: &str, workspace: &Path) -> Result<Container, String> {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if image.is_empty() || image.starts_with('-') || image.contains(odd) {
            return Err(format!("`{}` in `container` is no image", image.escape_debug()));
        }
        if workspace.to_string_lossy().contains([':', ',']) {
            return Err(format!(
                "{}: a container can't be given a directory with `:` or `,` in its name",
                workspace.display()
            ));
        }
        let installed = || ENGINES.into_iter().find(|engine| is_installed(engine));
        let Some(engine) = engine.or_else(installed) else {
            return Err("`container` needs podman or docker, and neither is installed; or name its program in `config.ci.engine`".to_owned());
        };
        let (image, name) = (image.to_owned(), name.to_owned());
        Ok(Container { engine: engine.to_owned(), image, name, workspace: workspace.to_owned() })
    }

    /// Runs a script of the workspace, in `tree`. Values of the environment stand on no command line.
    pub(super) fn command(&self, script: &Path, tree: &Path, env: Vec<(String, String)>) -> Command {
        let workspace = self.workspace.display().to_string();
        let mut command = Command::new(&self.engine).args(["run", "--rm", "--name", &self.name]);
        command = command.args([
            "--volume",
            &format!("{workspace}:{workspace}"),
            "--workdir",
            &tree.to_string_lossy(),
        ]);
        // What it writes is ours to remove.
        let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
        command = match self.is_podman() {
            true if user.is_root() => command,
            true => command.arg("--userns=keep-id"),
            false => command.args(["--user", &format!("{user}:{group}")]),
        };
        for (name, _) in &env {
            command = command.args(["--env", name]);
        }
        command.args(["--entrypoint", &script.to_string_lossy(), &self.image]).envs(env)
    }

    /// Ends what runs under the name, if anything does.
    pub(super) async fn end(&self) -> Result<(), CiError> {
        let command = Command::new(&self.engine).args(["rm", "--force", &self.name]);
        // That there is none is no failure of any kind; an engine that does not answer fails what comes next.
        process::output(command, &CancellationToken::new(), Some(END_WITHIN)).await?;
        Ok(())
    }

    fn is_podman(&self) -> bool {
        Path::new(&self.engine).file_name().is_some_and(|name| name.to_string_lossy().contains("podman"))
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn data_is_an_argument_or_in_the_environment_and_never_an_option() {
        for image in ["", "-it", "debian bookworm", "debian\n"] {
            assert!(Container::new(Some("docker"), image, "n", Path::new("/w")).is_err(), "{image:?}");
        }
        assert!(Container::new(Some("docker"), "debian", "n", Path::new("/w:/etc")).is_err());
        let container = Container::new(Some("/usr/bin/docker"), "debian:12", "n", Path::new("/w/7")).unwrap();
        let env = vec![("GIT_BRANCH".to_owned(), "$(reboot)".to_owned())];
        let command =
            container.command(Path::new("/w/7/source/script/cibuild"), Path::new("/w/7/source"), env.clone());
        let line = command.args.join(" ");
        assert!(
            line.ends_with("--env GIT_BRANCH --entrypoint /w/7/source/script/cibuild debian:12"),
            "{line}"
        );
        assert!(
            line.contains("--volume /w/7:/w/7 --workdir /w/7/source") && !line.contains("reboot"),
            "{line}"
        );
        assert_eq!(command.env, env);
    }
}
