//! Pack `package`: `delivery::package` on a fresh checkout, so that what is packaged is the commit and nothing that a build left; or on what lies in
//! the run's workspace.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `package.build` | `repository`, `commit`, and the options of `siskin package build` | makes a .deb or .rpm; `{package, deb or rpm, path, name, version, architecture, size, sha256, files, file_count, sbom, provenance, commit}` |
//!
//! Every option of the command line is a parameter of the same name, with `_` for `-`: `output_type: rpm`, `depends: [..]`, `after_install: FILE`, `systemd:
//! [FILE]`, `rpm_dist: el9`. Relative paths start at the checkout, or at the workspace when no repository is named.
//!
//! With a repository its tree goes below `/opt/NAME`, and the version is that of `fpm.json`, then the commit's time in seconds since 1970, then its
//! short hash: `1.4-1421712345-3f1c2ab0`. dpkg and rpm put those in the order of their times, whoever builds them and however often, and the same
//! commit has the same version and the same bytes.

use std::path::{Path, PathBuf};

use super::super::{Done, Failure, Job, optional_text};
use crate::delivery::ci::{self, Convention, Metadata};
use crate::delivery::deb;
use crate::delivery::package::attest::{self, Material, Origin, Signer};
use crate::delivery::package::{Build, Built, Error, Format, Scripts, metadata};
use crate::git::Checkout;
use crate::model::{Object, Timestamp, Value};

/// Where in the workspace the tree and the package stand.
const TREE: &str = "package";
const PACKAGES: &str = "packages";
/// What never goes into a package.
const LEFT_OUT: [&str; 1] = [".git"];
/// How much of a commit's hash stands in a version.
const SHORT_HASH: usize = 8;
/// How many files the output names; the bill of materials has all of them.
const NAMED_FILES: usize = 1000;
/// Parameters that are not options of the package itself.
const OWN: [&str; 8] =
    ["repository", "commit", "fpm_json", "package", "sbom", "provenance", "provenance_key", "builder_id"];
/// Options whose place in the order is not that of their name.
const SCRIPTS: [&str; 6] =
    ["before_install", "after_install", "before_remove", "after_remove", "before_upgrade", "after_upgrade"];
const SERVICES: [(&str, &str); 6] = [
    ("systemd", "systemd"),
    ("systemd_enable", "enable"),
    ("systemd_auto_start", "auto_start"),
    ("no_systemd_restart_after_upgrade", "no_restart_after_upgrade"),
    ("init", "init"),
    ("deb_default", "default"),
];
const RENAMED: [(&str, &str); 12] = [
    ("attr", "attributes"),
    ("exclude", "excludes"),
    ("deb_priority", "priority"),
    ("deb_pre_depends", "pre_depends"),
    ("deb_recommends", "recommends"),
    ("deb_suggests", "suggests"),
    ("deb_breaks", "breaks"),
    ("deb_changelog", "changelog"),
    ("rpm_changelog", "changelog"),
    ("deb_compression", "compression"),
    ("rpm_compression", "compression"),
    ("deb_no_default_config_files", "no_default_config_files"),
];

pub(super) async fn build(job: Job) -> Result<Done, Failure> {
    let ordered = ordered(&job).await?;
    let out = optional_text(&job.parameters, "package")?.unwrap_or_default().to_owned();
    let order = ordered.order.clone();
    let built = write(&job, order, out).await?;
    job.note(&format!("made {} {} ({})", built.name, built.version, built.path.display()));
    let beside = attest_beside(&job, &ordered, &built).await?;
    let path = Value::from(built.path.display().to_string());
    let kind = if built.format == Format::Rpm { "rpm" } else { "deb" };
    let names: Vec<Value> =
        built.files.iter().take(NAMED_FILES).map(|file| Value::from(file.path.as_str())).collect();
    let mut output = Object::new();
    for (name, value) in [
        (kind, path.clone()),
        ("package", path.clone()),
        ("path", path),
        ("name", Value::from(built.name)),
        ("version", Value::from(built.version)),
        ("architecture", Value::from(built.architecture)),
        ("size", Value::from(built.size)),
        ("sha256", Value::from(built.sha256)),
        ("file_count", Value::from(built.files.len())),
        ("files", Value::Array(names)),
    ] {
        output.insert(name.to_owned(), value);
    }
    for (name, path) in beside {
        output.insert(name.to_owned(), Value::from(path.display().to_string()));
    }
    if let Some(commit) = ordered.commit {
        output.insert("commit".to_owned(), Value::from(commit));
    }
    Ok(Done::with(Value::Object(output)))
}

/// What is to be made, and of what.
struct Ordered {
    order: Build,
    commit: Option<String>,
    materials: Vec<Material>,
}

async fn ordered(job: &Job) -> Result<Ordered, Failure> {
    let parameters = &job.parameters;
    if optional_text(parameters, "repository")?.is_none() {
        let base = match optional_text(parameters, "fpm_json")? {
            Some(file) => metadata::order(&metadata::read(&inside(&job.workspace, Path::new(file))?)?)?,
            None => Build::default(),
        };
        let order = overlaid(Build { overwrite: true, ..base }, parameters, &job.workspace)?;
        let order = Build { chdir: order.chdir.or_else(|| Some(job.workspace.clone())), ..order };
        return Ok(Ordered { order, commit: None, materials: Vec::new() });
    }
    let checkout = super::ci::checkout(job, TREE).await?;
    let tree = job.workspace.join(TREE);
    let convention = ci::read(&tree)?;
    let name = match optional_text(parameters, "name")? {
        Some(name) => name.to_owned(),
        None => convention.metadata.name.clone().unwrap_or_else(|| name_of(parameters)),
    };
    let mut order = overlaid(order(&convention, &checkout, &name)?, parameters, &tree)?;
    // fpm's name, which the format may spell otherwise, is part of the usual place.
    if order.prefix.is_none() {
        order.prefix = Some(format!("/opt/{}", order.name));
    }
    order.chdir = order.chdir.or(Some(tree));
    let repository =
        crate::git::Repository::new(optional_text(parameters, "repository")?.unwrap_or_default())?;
    let material = Material {
        uri: format!("git+{}@{}", repository.shown(), checkout.commit),
        digest: ("gitCommit".to_owned(), checkout.commit.clone()),
    };
    Ok(Ordered { order, commit: Some(checkout.commit), materials: vec![material] })
}

/// What the repository is called at the end of its address.
fn name_of(parameters: &Value) -> String {
    let repository = parameters.get("repository").and_then(Value::as_str).unwrap_or_default();
    let last = repository.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").unwrap_or(last).to_owned()
}

/// What a repository's own convention says, without parameters.
fn order(convention: &Convention, checkout: &Checkout, name: &str) -> Result<Build, Failure> {
    let package = deb::control::package_name(name).map_err(Failure::new)?;
    let seconds = checkout.time.0.div_euclid(1000).max(0);
    let short: String = checkout.commit.chars().take(SHORT_HASH).collect();
    let order = of_metadata(&convention.metadata)?;
    let mut excludes = LEFT_OUT.map(str::to_owned).to_vec();
    excludes.extend(order.excludes.iter().cloned());
    Ok(Build {
        prefix: order.prefix.clone().or_else(|| Some(format!("/opt/{package}"))),
        name: package,
        iteration: Some(format!("{seconds}-{short}")),
        architecture: order.architecture.clone().or_else(|| Some("all".to_owned())),
        excludes,
        scripts: Scripts { after_install: convention.after_install.clone(), ..Scripts::default() },
        source_date_epoch: u64::try_from(seconds).ok(),
        overwrite: true,
        ..order
    })
}

fn of_metadata(metadata: &Metadata) -> Result<Build, Failure> {
    Ok(metadata::order(metadata)?)
}

/// The parameters over an order: lists are put together, everything else counts before what was there. Relative files start at `base`.
fn overlaid(order: Build, parameters: &Value, base: &Path) -> Result<Build, Failure> {
    let Ok(Value::Object(mut merged)) = serde_json::to_value(&order) else {
        return Err(Failure::new("the order can't be put together"));
    };
    let empty = Object::new();
    let given = parameters.as_object().unwrap_or(&empty);
    for (name, value) in
        given.iter().filter(|(name, value)| !value.is_null() && !OWN.contains(&name.as_str()))
    {
        if name == "deb_field" {
            fields_into(&mut merged, value)?;
            continue;
        }
        let (section, key) = place_of(name);
        let target = match section {
            None => &mut merged,
            Some(section) => match merged.get_mut(section) {
                Some(Value::Object(target)) => target,
                _ => return Err(Failure::new(format!("there is no option `{name}`"))),
            },
        };
        merge(target, key, value);
    }
    let order: Build = serde_json::from_value(Value::Object(merged))
        .map_err(|error| Failure::new(format!("the parameters are no order for a package: {error}")))?;
    files_below(order, base)
}

/// The section of an order and the key there by which an option goes.
fn place_of(option: &str) -> (Option<&'static str>, &str) {
    if SCRIPTS.contains(&option) {
        return (Some("scripts"), option);
    }
    if option == "deb_after_purge" {
        return (Some("scripts"), "after_purge");
    }
    if let Some((_, key)) = SERVICES.iter().find(|(name, _)| *name == option) {
        return (Some("services"), key);
    }
    if let Some((_, key)) = RENAMED.iter().find(|(name, _)| *name == option) {
        return (None, key);
    }
    match (option.strip_prefix("deb_"), option.strip_prefix("rpm_")) {
        (Some("meta_file"), _) => (Some("deb"), "meta_files"),
        (Some(key), _) => (Some("deb"), key),
        (_, Some(key)) => (Some("rpm"), key),
        _ => (None, option),
    }
}

fn merge(target: &mut Object, key: &str, value: &Value) {
    match (target.get_mut(key), value) {
        (Some(Value::Array(old)), Value::Array(new)) => old.extend(new.iter().cloned()),
        // One text where a list may stand is a list of one.
        (Some(Value::Array(old)), one) => old.push(one.clone()),
        (_, value) => drop(target.insert(key.to_owned(), value.clone())),
    }
}

/// `deb_field: {X-Commit: abc}`.
fn fields_into(merged: &mut Object, value: &Value) -> Result<(), Failure> {
    let wrong = || Failure::new("`deb_field` must be a map of fields to texts");
    let pairs: Option<Vec<Value>> = value
        .as_object()
        .ok_or_else(wrong)?
        .iter()
        .map(|(name, text)| Some(Value::Array(vec![Value::from(name.as_str()), Value::from(text.as_str()?)])))
        .collect();
    let pairs = pairs.ok_or_else(wrong)?;
    if let Some(Value::Array(fields)) = merged.get_mut("fields") {
        fields.extend(pairs);
    }
    Ok(())
}

/// Files of this machine start at `base`, and relative ones stay below it.
fn files_below(mut order: Build, base: &Path) -> Result<Build, Failure> {
    let scripts = &mut order.scripts;
    let services = &mut order.services;
    let some = [
        &mut order.chdir,
        &mut order.changelog,
        &mut scripts.before_install,
        &mut scripts.after_install,
        &mut scripts.before_remove,
        &mut scripts.after_remove,
        &mut scripts.after_purge,
        &mut scripts.before_upgrade,
        &mut scripts.after_upgrade,
        &mut order.deb.config,
        &mut order.deb.templates,
        &mut order.deb.custom_control,
        &mut order.deb.upstream_changelog,
        &mut order.rpm.pretrans,
        &mut order.rpm.posttrans,
        &mut order.rpm.verifyscript,
    ];
    let lists = [&mut services.systemd, &mut services.init, &mut services.default, &mut order.deb.meta_files];
    for path in some.into_iter().flatten().chain(lists.into_iter().flatten()) {
        *path = inside(base, path)?;
    }
    Ok(order)
}

fn inside(base: &Path, path: &Path) -> Result<PathBuf, Failure> {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        let shown = path.display();
        return Err(Failure::new(format!(
            "`{shown}` leads out of where it starts; `..` has no place in a parameter"
        )));
    }
    Ok(base.join(path))
}

async fn write(job: &Job, order: Build, out: String) -> Result<Built, Failure> {
    let folder = job.workspace.join(PACKAGES);
    if out.contains('/') {
        return Err(Failure::new("`package` is the name of the file, without a folder"));
    }
    let make = move || -> Result<Built, Failure> {
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::new(format!("`{}` can't be made: {error}", folder.display())))?;
        Ok(order.write_to(&folder.join(out))?)
    };
    let built = super::blocking(make).await?;
    for note in &built.notes {
        job.note(note);
    }
    Ok(built)
}

/// Writes what was asked for beside the package; answers where.
async fn attest_beside(
    job: &Job,
    ordered: &Ordered,
    built: &Built,
) -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let wants = |name: &str| job.parameters.get(name).and_then(Value::as_bool).unwrap_or(false);
    let (wants_bill, wants_statement) = (wants("sbom"), wants("provenance"));
    if !wants_bill && !wants_statement {
        return Ok(Vec::new());
    }
    let key = match optional_text(&job.parameters, "provenance_key")?
        .or(optional_text(&job.work.config, "provenance_key")?)
    {
        Some(path) => job.workspace.join(path),
        None => job.data.join("keys/apt.asc"),
    };
    let builder =
        optional_text(&job.parameters, "builder_id")?.or(optional_text(&job.work.config, "builder_id")?);
    let origin = Origin {
        builder: builder.unwrap_or("https://siskin.dev/server").to_owned(),
        invocation: Some(format!("run {} step {}", job.key.run, job.key.step)),
        materials: ordered.materials.clone(),
    };
    let (order, built) = (ordered.order.clone(), built.clone());
    super::blocking(move || {
        let mut beside = Vec::new();
        if wants_bill {
            let path = attest::beside(&built.path, attest::BILL_ENDING);
            attest::write(&path, &format!("{:#}\n", attest::bill_of_materials(&order, &built)))?;
            beside.push(("sbom", path));
        }
        if wants_statement {
            let signer = Signer::load(&key, false)?;
            let path = attest::beside(&built.path, attest::STATEMENT_ENDING);
            let at = Timestamp(i64::try_from(built.time).unwrap_or(0).saturating_mul(1000));
            attest::write(
                &path,
                &attest::envelope(&attest::statement(&order, &built, &origin), &signer, at)?,
            )?;
            beside.push(("provenance", path));
        }
        Ok(beside)
    })
    .await
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<metadata::MetadataError> for Failure {
    fn from(error: metadata::MetadataError) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<attest::AttestError> for Failure {
    fn from(error: attest::AttestError) -> Failure {
        Failure::new(error.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn order_of(fpm: Value, seconds: i64, commit: &str) -> Result<Build, Failure> {
        let metadata = ci::parse_metadata(fpm.to_string().as_bytes()).unwrap();
        let tree = PathBuf::from("/tree");
        let convention = Convention {
            build: tree.join("script/cibuild"),
            tree,
            setup: None,
            after_install: None,
            metadata,
        };
        let checkout =
            Checkout { commit: commit.to_owned(), time: Timestamp(seconds * 1000), subject: String::new() };
        order(&convention, &checkout, "Web_Shop")
    }

    fn version(build: &Build) -> deb::Version {
        deb::Version::from_parts(build.epoch, &build.version, build.iteration.as_deref()).unwrap()
    }

    #[test]
    fn a_later_commit_is_a_higher_version_and_the_same_one_the_same() {
        let one = order_of(json!({"version": "1.4"}), 1_421_712_345, "abcdef0123456789").unwrap();
        let two = order_of(json!({"version": "1.4"}), 1_421_712_346, "0bcdef0123456789").unwrap();
        assert_eq!(version(&one).to_string(), "1.4-1421712345-abcdef01");
        assert!(version(&one) < version(&two));
        assert_eq!(one, order_of(json!({"version": "1.4"}), 1_421_712_345, "abcdef0123456789").unwrap());
    }

    #[test]
    fn the_tree_goes_below_opt_and_fpm_json_says_the_rest() {
        let fpm =
            json!({"version": "v2", "depends": ["python3"], "architecture": "amd64", "provides": ["shop"]});
        let order = order_of(fpm, 1, "abcdef01").unwrap();
        assert_eq!((order.name.as_str(), order.prefix.as_deref()), ("web-shop", Some("/opt/web-shop")));
        assert_eq!(
            (order.architecture.as_deref(), order.depends.len(), order.provides.len()),
            (Some("amd64"), 1, 1)
        );
    }

    #[test]
    fn what_is_not_known_in_fpm_json_is_named() {
        let error = order_of(json!({"version": "1", "overwrite": true}), 1, "abcdef01").unwrap_err();
        assert!(error.error.message.contains("`overwrite`"), "{}", error.error);
        let error =
            order_of(json!({"version": "1", "deb": {"config": "/etc/shadow"}}), 1, "abcdef01").unwrap_err();
        assert!(error.error.message.contains("`deb.config`"), "{}", error.error);
    }

    #[test]
    fn every_option_of_the_command_line_is_a_parameter() {
        let base = order_of(json!({"version": "1", "depends": ["a1"]}), 1, "abcdef01").unwrap();
        let parameters = json!({
            "repository": "https://h/x", "commit": "abc", "sbom": true, "output_type": "rpm", "iteration": "7", "depends": ["b1"],
            "exclude": ["*.tmp"], "attr": ["0640,root,shop:/etc/shop/*"], "after_install": "script/after", "systemd": ["shop.service"],
            "systemd_auto_start": true, "rpm_dist": "el9", "deb_interest": "t", "deb_priority": "extra", "rpm_compression": "zst",
            "license": null, "deb_field": {"X-A": "b"},
        });
        let order = overlaid(base, &parameters, Path::new("/tree")).unwrap();
        assert_eq!((order.output_type, order.iteration.as_deref()), (Format::Rpm, Some("7")));
        assert_eq!(
            (order.depends, order.excludes),
            (vec!["a1".into(), "b1".into()], vec![".git".into(), "*.tmp".into()])
        );
        assert_eq!(order.scripts.after_install.unwrap(), Path::new("/tree/script/after"));
        assert_eq!(order.services.systemd, [Path::new("/tree/shop.service")]);
        assert!(order.services.auto_start && order.license.is_none());
        assert_eq!(
            (order.rpm.dist.as_deref(), order.deb.interest, order.fields.len()),
            (Some("el9"), vec!["t".into()], 1)
        );
        for wrong in [json!({"no_such": 1}), json!({"changelog": "../../secret"}), json!({"epoch": "x"})] {
            assert!(overlaid(Build::default(), &wrong, Path::new("/tree")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_repository_without_a_name_is_called_after_its_address() {
        for (repository, name) in
            [("https://h/acme/shop.git", "shop"), ("git@h:shop", "shop"), ("/srv/git/shop/", "shop")]
        {
            assert_eq!(name_of(&json!({"repository": repository})), name);
        }
    }
}
