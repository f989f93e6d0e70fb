//! Which file is what, and the order in which they are read: what others name first, what names others last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::check::{Config, Named, Signature, World};
use super::fields::{self, Fields};
use super::mistake::{EMBEDDED, Mistake, Place};
use super::sheet::Sheet;
use super::site::Site;
use super::yaml::{Node, Source};
use super::{Definitions, Files, SITE, action, app, live, rule, site, source, test, trigger, workflow};
use crate::expr::Expr;
use crate::model::{Filled, Object, Value};

/// Folders of definitions in a pack.
const FOLDERS: [Kind; 6] =
    [Kind::Action, Kind::Workflow, Kind::Rule, Kind::Trigger, Kind::Source, Kind::Command];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Site,
    Pack,
    App,
    Action,
    Workflow,
    Rule,
    Trigger,
    Source,
    Command,
    /// Part of siskin.yaml.
    Window,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Site | Kind::Pack | Kind::Window => "",
            Kind::App => "apps",
            Kind::Action => "actions",
            Kind::Workflow => "workflows",
            Kind::Rule => "rules",
            Kind::Trigger => "triggers",
            Kind::Source => "sources",
            Kind::Command => "commands",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Site => "site",
            Kind::Pack => "pack",
            Kind::App => "app",
            Kind::Action => "action",
            Kind::Workflow => "workflow",
            Kind::Rule => "rule",
            Kind::Trigger => "trigger",
            Kind::Source => "source",
            Kind::Command => "command",
            Kind::Window => "window",
        }
    }
}

/// A file that holds a definition.
struct Paper {
    kind: Kind,
    pack: String,
    /// `pack.name`; of an app only its name.
    name: String,
    source: Source,
    node: Node,
    /// Mistakes of its text: what was read of it is not whole.
    mistakes: Vec<Mistake>,
}

/// See `Definitions::read`.
pub(super) fn read(files: &Files) -> (Definitions, Vec<Mistake>) {
    let (papers, mut mistakes) = papers(files);
    let functions = functions(files, &mut mistakes);
    let (expr, broken_functions) = Expr::new(
        &functions.iter().map(|(pack, (_, text))| (pack.clone(), text.clone())).collect::<Vec<_>>(),
    );
    for broken in broken_functions {
        let file = functions.get(&broken.pack).map(|(file, _)| Arc::clone(file)).unwrap_or_default();
        let place = Place { file, line: broken.mistake.line, column: broken.mistake.column };
        mistakes.push(Mistake { place, message: broken.mistake.message, help: None });
    }
    let mut collected = Collected { mistakes, ..Collected::default() };
    let (site, configs) = read_site(&papers, &mut collected);
    let windows = windows(&papers);
    let apps = Value::Object(read_apps(&papers, windows.as_ref(), &mut collected));
    let (callables, triggers) = signatures(&papers);
    let world = World { expr: &expr, apps: &apps, configs, callables, triggers, windows };
    for paper in &papers {
        let functions = functions.get(&paper.pack).map(|(_, text)| text.as_str());
        collected.take(paper, &world, files, functions);
    }
    collected.find_doubles(&papers);
    let Collected { definitions: mut kept, broken, names, mut mistakes, .. } = collected;
    let left_out = leave_out(&mut kept, broken, &names);
    let kept_for_tests = test::Kept {
        actions: &kept.actions,
        workflows: &kept.workflows,
        rules: &kept.rules,
        triggers: &kept.triggers,
        rule_names: papers
            .iter()
            .filter(|paper| paper.kind == Kind::Rule)
            .map(|paper| paper.name.clone())
            .collect(),
    };
    let (tests, more) = test::read(files, &world, &kept_for_tests, |path| file_of(path, files));
    mistakes.extend(more);
    drop(world);
    mistakes.sort_by(|one, other| (&one.place, &one.message).cmp(&(&other.place, &other.message)));
    mistakes.dedup();
    let sources = with_clocks(kept.sources, &kept.rules, &expr);
    let mut definitions = Definitions {
        revision: revision(files),
        expr: Arc::new(expr),
        site,
        actions: kept.actions,
        workflows: kept.workflows,
        rules: kept.rules,
        listening: BTreeMap::new(),
        triggers: kept.triggers,
        sources,
        tests,
        apps: Arc::new(apps),
        left_out,
    };
    definitions.sort_rules();
    (definitions, mistakes)
}

/// The sources, and one for the schedule of each enabled rule that has one.
fn with_clocks(
    mut sources: BTreeMap<String, Arc<source::Source>>,
    rules: &BTreeMap<String, Arc<rule::Rule>>,
    expr: &Expr,
) -> BTreeMap<String, Arc<source::Source>> {
    for rule in rules.values().filter(|rule| rule.enabled) {
        let (Some(schedule), Ok(trigger)) = (&rule.schedule, expr.template(rule::SCHEDULE)) else { continue };
        let watch = live::Watch::At(schedule.clone());
        let clock = source::Source {
            name: rule.clock(),
            pack: rule.pack.clone(),
            place: rule.place.clone(),
            description: format!("The schedule of the rule {}.", rule.name),
            config: rule.config.clone(),
            kind: source::Kind::Live(live::Live { trigger, dedup: None, each: None, watch }),
            text: format!("{} {:?}", schedule.subject, schedule.catch_up).into(),
        };
        sources.insert(clock.name.clone(), Arc::new(clock));
    }
    sources
}

/// Hex SHA-256 over every path and text, each with its length before it, so that no two sets of files read alike.
fn revision(files: &Files) -> String {
    let mut hash = Sha256::new();
    for (path, bytes) in &files.texts {
        for part in [path.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex::encode(hash.finalize())
}

fn file_of(path: &str, files: &Files) -> Arc<str> {
    if files.embedded.contains(path) { format!("{EMBEDDED}{path}").into() } else { path.into() }
}

// Which file is what.

/// What a path is, if it is a definition at all.
enum Sort {
    Definition { kind: Kind, pack: String, name: String },
    Wrong(String, Option<String>),
    Other,
}

fn sort(path: &str) -> Sort {
    if path == "siskin.yaml" {
        return Sort::Definition { kind: Kind::Site, pack: SITE.to_owned(), name: SITE.to_owned() };
    }
    if path == "siskin.yml" {
        return Sort::Wrong("this file is called siskin.yaml".to_owned(), Some("rename it".to_owned()));
    }
    let (pack, rest) = match path.strip_prefix("packs/").map(|rest| rest.split_once('/')) {
        Some(Some((pack, rest))) => (pack, rest),
        Some(None) => return Sort::Other,
        None => (SITE, path),
    };
    let is_pack = path.starts_with("packs/");
    let kind = match rest.split_once('/') {
        None if is_pack && rest == "pack.yaml" => return pack_file(pack),
        None if is_pack && rest == "pack.yml" => {
            return Sort::Wrong("this file is called pack.yaml".to_owned(), Some("rename it".to_owned()));
        }
        None => return Sort::Other,
        Some(("apps", _)) if !is_pack => Kind::App,
        Some((folder, _)) => match FOLDERS.into_iter().find(|kind| kind.folder() == folder) {
            Some(kind) => kind,
            None => return Sort::Other,
        },
    };
    let file = &rest[kind.folder().len() + 1..];
    let last = file.rsplit('/').next().unwrap_or(file);
    if last.starts_with('.') {
        return Sort::Other;
    }
    if let Some(stem) = last.strip_suffix(".yml") {
        return Sort::Wrong("definitions end in .yaml".to_owned(), Some(format!("rename it to {stem}.yaml")));
    }
    let Some(name) = last.strip_suffix(".yaml") else { return Sort::Other };
    if file.contains('/') {
        let message =
            format!("{}/ has no folders inside: a definition's name is its file's name", kind.folder());
        return Sort::Wrong(message, Some(format!("move it to {}/{last}", kind.folder())));
    }
    if let Some(wrong) = wrong_pack(pack, is_pack) {
        return wrong;
    }
    let fits = if kind == Kind::App { super::is_app_name(name) } else { super::is_name(name) };
    if !fits {
        let more = if kind == Kind::App { ", `_` and `-`" } else { " and `_`" };
        let message = format!(
            "`{name}` is no name of {}: small letters, digits{more}, a letter first",
            with_article(kind.word())
        );
        let help = name.to_lowercase().replace(['-', ' ', '.'], "_");
        return Sort::Wrong(message, super::is_name(&help).then(|| format!("rename it to {help}.yaml")));
    }
    let name = if kind == Kind::App { name.to_owned() } else { format!("{pack}.{name}") };
    Sort::Definition { kind, pack: pack.to_owned(), name }
}

/// The kind of definition that a path is, and its name.
pub(super) fn kind_and_name(path: &str) -> Option<(&'static str, String)> {
    match sort(path) {
        Sort::Definition { kind, name, .. } => Some((kind.word(), name)),
        Sort::Wrong(..) | Sort::Other => None,
    }
}

fn pack_file(pack: &str) -> Sort {
    match wrong_pack(pack, true) {
        Some(wrong) => wrong,
        None => Sort::Definition { kind: Kind::Pack, pack: pack.to_owned(), name: pack.to_owned() },
    }
}

fn wrong_pack(pack: &str, is_pack: bool) -> Option<Sort> {
    if is_pack && pack == SITE {
        let message = "`site` is the repository itself and can't be a pack".to_owned();
        return Some(Sort::Wrong(message, Some("give the pack another name".to_owned())));
    }
    if !super::is_name(pack) {
        let message = format!("`{pack}` is no name of a pack: small letters, digits and `_`, a letter first");
        return Some(Sort::Wrong(message, None));
    }
    None
}

fn with_article(word: &str) -> String {
    if word.starts_with('a') { format!("an {word}") } else { format!("a {word}") }
}

fn papers(files: &Files) -> (Vec<Paper>, Vec<Mistake>) {
    let (mut papers, mut mistakes) = (Vec::new(), Vec::new());
    for (path, bytes) in &files.texts {
        let file = file_of(path, files);
        let start = Place { file: Arc::clone(&file), line: 1, column: 1 };
        let unread = files.unread.get(path).map(|why| Mistake {
            place: start.clone(),
            message: format!("this file can't be read: {why}"),
            help: None,
        });
        match sort(path) {
            Sort::Other => mistakes.extend(unread),
            Sort::Wrong(message, help) => mistakes.push(Mistake { place: start, message, help }),
            Sort::Definition { kind: Kind::Command, .. } => {
                let message = "chat commands are not built yet in this version".to_owned();
                mistakes.push(Mistake {
                    place: start,
                    message,
                    help: Some("take this file away".to_owned()),
                });
            }
            Sort::Definition { kind, pack, name } => papers.push(match unread {
                Some(mistake) => no_paper(kind, pack, name, file, mistake),
                None => paper(kind, pack, name, file, bytes),
            }),
        }
    }
    (papers, mistakes)
}

fn nothing() -> Node {
    Node { content: super::yaml::Content::Broken, line: 1, column: 1 }
}

/// A file that could not be read as text.
fn no_paper(kind: Kind, pack: String, name: String, file: Arc<str>, mistake: Mistake) -> Paper {
    Paper { kind, pack, name, source: Source::empty(file), node: nothing(), mistakes: vec![mistake] }
}

fn paper(kind: Kind, pack: String, name: String, file: Arc<str>, bytes: &[u8]) -> Paper {
    let source = match Source::new(Arc::clone(&file), bytes) {
        Ok(source) => source,
        Err(mistake) => return no_paper(kind, pack, name, file, mistake),
    };
    let (mut nodes, mut mistakes) = source.parse();
    let wrong = |line, column, message: &str| Mistake {
        place: source.place(line, column),
        message: message.to_owned(),
        help: None,
    };
    if let Some(second) = nodes.get(1) {
        mistakes.push(wrong(
            second.line,
            second.column,
            "a file holds one definition: here a second YAML document begins",
        ));
    }
    if nodes.is_empty() && mistakes.is_empty() && kind != Kind::Site && kind != Kind::Pack {
        mistakes.push(wrong(1, 1, "this file is empty"));
    }
    let empty_map = || Node { content: super::yaml::Content::Map(Vec::new()), line: 1, column: 1 };
    let node = if !nodes.is_empty() {
        nodes.swap_remove(0)
    } else if mistakes.is_empty() {
        empty_map()
    } else {
        nothing()
    };
    Paper { kind, pack, name, source, node, mistakes }
}

/// Each pack's `functions.rhai`, with its file.
fn functions(files: &Files, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, (Arc<str>, String)> {
    let mut functions = BTreeMap::new();
    for (path, bytes) in &files.texts {
        let pack = match path.strip_prefix("packs/").and_then(|rest| rest.strip_suffix("/functions.rhai")) {
            Some(pack) if !pack.contains('/') => pack,
            None if path == "functions.rhai" => SITE,
            _ => continue,
        };
        let file = file_of(path, files);
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                functions.insert(pack.to_owned(), (file, text.to_owned()));
            }
            Err(_) => {
                let place = Place { file, line: 1, column: 1 };
                mistakes.push(Mistake {
                    place,
                    message: "this is not UTF-8".to_owned(),
                    help: Some("save the file as UTF-8".to_owned()),
                });
            }
        }
    }
    functions
}

// What others name.

/// The names of the windows in siskin.yaml, those with mistakes among them; none when that is no YAML.
fn windows(papers: &[Paper]) -> Option<BTreeSet<String>> {
    let Some(paper) = papers.iter().find(|paper| paper.kind == Kind::Site) else {
        return Some(BTreeSet::new());
    };
    site::names_of_windows(&paper.node)
}

fn read_apps(papers: &[Paper], windows: Option<&BTreeSet<String>>, collected: &mut Collected) -> Object {
    let mut apps = Object::new();
    for paper in papers.iter().filter(|paper| paper.kind == Kind::App) {
        let sheet = Sheet::new(&paper.source, &paper.pack);
        let app = app::read(&sheet, &paper.node, windows);
        let is_whole = collected.finish(paper, sheet);
        // An app with a mistake is known by what could be read of it: its users' mistakes are their own.
        if let (Some(app), true) = (app, is_whole) {
            apps.insert(paper.name.clone(), app);
        }
    }
    apps
}

fn read_site(papers: &[Paper], collected: &mut Collected) -> (Site, BTreeMap<String, Config>) {
    let mut configs = schemas(papers, collected);
    let paper = papers.iter().find(|paper| paper.kind == Kind::Site);
    let sheet = paper.map(|paper| Sheet::new(&paper.source, SITE));
    let (mut site, given) = match (paper, &sheet) {
        (Some(paper), Some(sheet)) => site::read(sheet, &paper.node),
        _ => Default::default(),
    };
    let entries = match (given, &sheet) {
        (Some(node), Some(sheet)) => sheet.entries(node, "`config`").unwrap_or_default(),
        _ => &[],
    };
    for entry in entries {
        let Some(sheet) = &sheet else { continue };
        let Some(config) = configs.get_mut(&entry.key) else {
            let help = super::mistake::suggestion(&entry.key, configs.keys().map(String::as_str));
            sheet.report(entry.line, entry.column, format!("there is no pack `{}`", entry.key), help);
            continue;
        };
        config.missing.clear();
        config.value = match &config.schema {
            Some(schema) => config_value(sheet, schema, &entry.value, &entry.key),
            None if entry.key == SITE => sheet.value(&entry.value),
            None => {
                sheet.wrong(&entry.value, format!("the pack `{}` takes no configuration", entry.key), None);
                continue;
            }
        };
    }
    if let (Some(paper), Some(sheet)) = (paper, sheet) {
        collected.finish(paper, sheet);
        collected.take_windows(paper, &site);
    }
    for paper in papers.iter().filter(|paper| paper.kind == Kind::Pack) {
        report_unconfigured(paper, &mut configs, collected);
    }
    site.config = configs.iter().map(|(pack, config)| (pack.clone(), config.value.clone())).collect();
    (site, configs)
}

/// What each pack wants to be told, with nothing told yet but the defaults.
fn schemas(papers: &[Paper], collected: &mut Collected) -> BTreeMap<String, Config> {
    let empty = || Config { value: Value::Object(Object::new()), ..Config::default() };
    let mut configs = BTreeMap::from([(SITE.to_owned(), empty())]);
    for paper in papers {
        configs.entry(paper.pack.clone()).or_insert_with(empty);
    }
    let known: BTreeSet<&str> = papers.iter().map(|paper| paper.pack.as_str()).collect();
    for paper in papers.iter().filter(|paper| paper.kind == Kind::Pack) {
        let sheet = Sheet::new(&paper.source, &paper.pack);
        let schema = site::read_pack(&sheet, &paper.node, Some(&known));
        collected.finish(paper, sheet);
        let required = schema.iter().flatten().filter(|(_, field)| field.is_required());
        let missing = required.map(|(name, _)| name.clone()).collect();
        let value = schema.as_ref().map_or_else(|| Value::Object(Object::new()), defaults);
        configs.insert(paper.pack.clone(), Config { schema, value, missing });
    }
    configs
}

/// A pack of the repository that must be told something and was told nothing. One of the binary is answered where somebody names it.
fn report_unconfigured(paper: &Paper, configs: &mut BTreeMap<String, Config>, collected: &mut Collected) {
    let Some(config) = configs.get_mut(&paper.pack).filter(|config| !config.missing.is_empty()) else {
        return;
    };
    if paper.source.file.starts_with(EMBEDDED) {
        return;
    }
    let missing = std::mem::take(&mut config.missing);
    let pack = &paper.pack;
    collected.mistakes.push(Mistake {
        place: paper.source.place(1, 1),
        message: format!("the pack `{pack}` must be told its {}", missing.join(" and ")),
        help: Some(format!("in siskin.yaml: config: {{{pack}: {{{}: ...}}}}", missing.join(": ..., "))),
    });
}

fn defaults(schema: &Fields) -> Value {
    Value::Object(
        schema.iter().filter_map(|(name, field)| Some((name.clone(), field.default.clone()?))).collect(),
    )
}

/// One pack's `config`, each mistake at its own value.
fn config_value(sheet: &Sheet<'_>, schema: &Fields, node: &Node, pack: &str) -> Value {
    let mut object = Object::new();
    for entry in sheet.entries(node, &format!("the configuration of `{pack}`")).unwrap_or_default() {
        let Some(field) = schema.get(&entry.key) else {
            let help = super::mistake::suggestion(&entry.key, schema.keys().map(String::as_str));
            sheet.report(
                entry.line,
                entry.column,
                format!("the pack `{pack}` takes no `{}`", entry.key),
                help,
            );
            continue;
        };
        let value = sheet.typed_value(&entry.value, Some(field));
        sheet.check_literal(&entry.value, field, &entry.key);
        object.insert(entry.key.clone(), value);
    }
    let accepted = fields::accept(schema, &Filled::Plain(Value::Object(object.clone())), false);
    match accepted {
        Ok(accepted) => accepted.masked(),
        Err(messages) => {
            for message in messages.iter().filter(|message| message.ends_with("is missing")) {
                sheet.wrong(node, format!("the configuration of `{pack}`: {message}"), None);
            }
            let mut filled = defaults(schema);
            if let Value::Object(filled) = &mut filled {
                filled.extend(object);
            }
            filled
        }
    }
}

fn signatures(papers: &[Paper]) -> (BTreeMap<String, Signature>, BTreeSet<String>) {
    let (mut callables, mut triggers) = (BTreeMap::new(), BTreeSet::new());
    for paper in papers {
        // Mistakes are reported when the whole file is read.
        let sheet = Sheet::new(&paper.source, &paper.pack);
        match paper.kind {
            Kind::Action => {
                callables.insert(paper.name.clone(), action::signature(&sheet, &paper.node));
            }
            Kind::Workflow => {
                callables
                    .entry(paper.name.clone())
                    .or_insert_with(|| workflow::signature(&sheet, &paper.node));
            }
            Kind::Trigger => {
                triggers.insert(paper.name.clone());
            }
            _ => (),
        }
    }
    (callables, triggers)
}

// The definitions themselves.

#[derive(Default)]
struct Kept {
    actions: BTreeMap<String, Arc<action::Action>>,
    workflows: BTreeMap<String, Arc<workflow::Workflow>>,
    rules: BTreeMap<String, Arc<rule::Rule>>,
    triggers: BTreeMap<String, Arc<trigger::Trigger>>,
    sources: BTreeMap<String, Arc<source::Source>>,
}

/// What a definition is known by: rules and workflows may bear the same name.
type Key = (Kind, String);

#[derive(Default)]
struct Collected {
    definitions: Kept,
    mistakes: Vec<Mistake>,
    broken: BTreeMap<Key, String>,
    /// What each names.
    names: BTreeMap<Key, BTreeSet<Named>>,
}

impl Collected {
    /// Takes what is wrong with a file; whether nothing is.
    fn finish(&mut self, paper: &Paper, sheet: Sheet<'_>) -> bool {
        let key = (paper.kind, paper.name.clone());
        self.names.insert(key.clone(), sheet.names.take());
        let mistakes: Vec<Mistake> = paper.mistakes.iter().cloned().chain(sheet.into_mistakes()).collect();
        let first = mistakes.first().map(ToString::to_string);
        self.mistakes.extend(mistakes);
        let Some(first) = first else { return true };
        self.broken.insert(key, first);
        false
    }

    /// What names a window with a mistake is left out, and nothing else of siskin.yaml.
    fn take_windows(&mut self, paper: &Paper, site: &Site) {
        for name in site::names_of_windows(&paper.node).unwrap_or_default() {
            let key = (Kind::Window, name.clone());
            if !site.windows.contains_key(&name) {
                self.broken.insert(key.clone(), format!("the window `{name}` in siskin.yaml has a mistake"));
            }
            self.names.insert(key, BTreeSet::new());
        }
    }

    fn take(&mut self, paper: &Paper, world: &World<'_>, files: &Files, functions: Option<&str>) {
        let sheet = Sheet::new(&paper.source, &paper.pack);
        let (node, name) = (&paper.node, paper.name.clone());
        let kept = &mut self.definitions;
        match paper.kind {
            Kind::Action => {
                let read = action::read(&sheet, node, &name, world, files, functions);
                kept.actions.extend(read.map(|action| (name, Arc::new(action))));
            }
            Kind::Workflow => {
                let read = workflow::read(&sheet, node, &name, world);
                kept.workflows.extend(read.map(|workflow| (name, Arc::new(workflow))));
            }
            Kind::Rule => {
                let read = rule::read(&sheet, node, &name, world);
                kept.rules.extend(read.map(|rule| (name, Arc::new(rule))));
            }
            Kind::Trigger => {
                let read = trigger::read(&sheet, node, &name);
                kept.triggers.extend(read.map(|trigger| (name, Arc::new(trigger))));
            }
            Kind::Source => {
                let read = source::read(&sheet, node, &name, world);
                kept.sources.extend(read.map(|source| (name, Arc::new(source))));
            }
            Kind::Site | Kind::Pack | Kind::App | Kind::Command | Kind::Window => return,
        }
        self.finish(paper, sheet);
    }

    /// Two definitions where only one may be: an action and a workflow of one name, two sources at one path.
    fn find_doubles(&mut self, papers: &[Paper]) {
        let file = |kind: Kind, name: &str| {
            papers
                .iter()
                .find(|paper| paper.kind == kind && paper.name == name)
                .map(|paper| &paper.source.file)
        };
        let mut doubles: Vec<(Key, Place, String)> = Vec::new();
        for paper in papers.iter().filter(|paper| paper.kind == Kind::Workflow) {
            if let Some(other) = file(Kind::Action, &paper.name) {
                let message = format!(
                    "`{}` is an action as well ({other}); actions and workflows share their names",
                    paper.name
                );
                doubles.push(((Kind::Workflow, paper.name.clone()), paper.source.place(1, 1), message));
            }
        }
        let mut paths: BTreeMap<&str, &source::Source> = BTreeMap::new();
        for source in self.definitions.sources.values() {
            let source::Kind::Webhook(webhook) = &source.kind else { continue };
            if let Some(other) = paths.insert(&webhook.path, source) {
                let message = format!("the path `{}` is that of the source {} too", webhook.path, other.name);
                doubles.push(((Kind::Source, source.name.clone()), source.place.clone(), message));
            }
        }
        for (key, place, message) in doubles {
            let mistake = Mistake { place, message, help: Some("rename one of them".to_owned()) };
            self.broken.entry(key).or_insert_with(|| mistake.to_string());
            self.mistakes.push(mistake);
        }
    }
}

/// Takes out what is broken, and what names it, and so on.
fn leave_out(
    kept: &mut Kept,
    broken: BTreeMap<Key, String>,
    names: &BTreeMap<Key, BTreeSet<Named>>,
) -> BTreeMap<String, String> {
    let mut gone = broken;
    loop {
        let left = names.iter().filter(|(key, _)| !gone.contains_key(*key));
        let more: Vec<(Key, String)> = left
            .filter_map(|(key, named)| {
                let (kind, name) = named.iter().find_map(|named| missing(named, names, &gone))?;
                Some((key.clone(), format!("the {} {name}, which it names, has a mistake", kind.word())))
            })
            .collect();
        if more.is_empty() {
            break;
        }
        gone.extend(more);
    }
    let is_gone = |kind: Kind, name: &String| gone.contains_key(&(kind, name.clone()));
    kept.actions.retain(|name, _| !is_gone(Kind::Action, name));
    kept.workflows.retain(|name, _| !is_gone(Kind::Workflow, name));
    kept.rules.retain(|name, _| !is_gone(Kind::Rule, name));
    kept.triggers.retain(|name, _| !is_gone(Kind::Trigger, name));
    kept.sources.retain(|name, _| !is_gone(Kind::Source, name));
    gone.into_iter().map(|((kind, name), why)| (format!("{} {name}", kind.word()), why)).collect()
}

/// The definition behind a name, when none of that name is left.
fn missing<'n>(
    named: &'n Named,
    names: &BTreeMap<Key, BTreeSet<Named>>,
    gone: &BTreeMap<Key, String>,
) -> Option<(Kind, &'n str)> {
    let (name, kinds): (_, &[Kind]) = match named {
        Named::Callable(name) => (name, &[Kind::Action, Kind::Workflow]),
        Named::Trigger(name) => (name, &[Kind::Trigger]),
        Named::Window(name) => (name, &[Kind::Window]),
    };
    let key = |kind: Kind| (kind, name.clone());
    let is_left = |kind: &&Kind| names.contains_key(&key(**kind)) && !gone.contains_key(&key(**kind));
    if kinds.iter().any(|kind| is_left(&kind)) {
        return None;
    }
    kinds.iter().copied().find(|kind| gone.contains_key(&key(*kind))).map(|kind| (kind, name.as_str()))
}
