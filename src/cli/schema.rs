//! `siskin schema`: JSON Schemas of everything that people write, for editors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{Screen, Usage};
use crate::definitions::nearest;
use crate::definitions::schema::{ALL, FileKind, schema};
use crate::model::{Object, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin schema rule\n  siskin schema --all .schemas                   a file per kind, and how to tell the editor\n\nAn editor with yaml-language-server takes the schema from the first line of a file:\n  # yaml-language-server: $schema=../.schemas/rule.json"
)]
pub(super) struct SchemaArgs {
    /// Of one kind: rule, workflow, action, trigger, source, app, pack, test, siskin; without it all, by kind
    #[arg(value_name = "KIND", conflicts_with = "all")]
    kind: Option<String>,
    /// Write a file for each kind into this folder
    #[arg(long, value_name = "DIR")]
    all: Option<PathBuf>,
}

impl SchemaArgs {
    pub(super) fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match (self.kind, self.all) {
            (Some(name), _) => {
                let Some(kind) = ALL.iter().find(|kind| kind.name == name) else {
                    return Err(no_such_kind(&name).into());
                };
                screen.json(&schema(kind))?;
            }
            (None, Some(folder)) => write_all(&folder, screen)?,
            (None, None) => {
                let all: Object = ALL.iter().map(|kind| (kind.name.to_owned(), schema(kind))).collect();
                screen.json(&Value::Object(all))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn no_such_kind(name: &str) -> Usage {
    let kinds: Vec<&str> = ALL.iter().map(|kind| kind.name).collect();
    let near = nearest(name, kinds.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
    Usage(format!("there is no kind of file `{name}`: {}{}", kinds.join(", "), near.unwrap_or_default()))
}

fn write_all(folder: &Path, screen: &mut Screen) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    for kind in ALL {
        let path = folder.join(file_of(kind));
        let text = format!("{:#}\n", schema(kind));
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
        screen.line(path.display())?;
    }
    let shown = folder.display();
    screen.line("")?;
    screen.line("An editor with yaml-language-server takes a schema from the first line of a file:")?;
    screen.line(format!("  # yaml-language-server: $schema=PATH/TO/{shown}/rule.json"))?;
    screen.line("or for all files from its settings, in VS Code .vscode/settings.json:")?;
    let by_file: Object =
        ALL.iter().map(|kind| (format!("{shown}/{}", file_of(kind)), json!(kind.files))).collect();
    screen.json(&json!({"yaml.schemas": by_file}))?;
    Ok(())
}

fn file_of(kind: &FileKind) -> String {
    format!("{}.json", kind.name)
}
