//! Pack `package`: `delivery::deb` on a fresh checkout, so that what is packaged is the commit and nothing that a build left.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `package.build` | `repository`, `commit`, `name` | makes a .deb of the tree below `/opt/NAME`; `{deb, name, version, sha256, commit}` |
//!
//! The version is that of `fpm.json`, then the commit's time in seconds since 1970, then its short hash: `1.4-1421712345-3f1c2ab0`. dpkg puts
//! those in the order of their times, whoever builds them and however often, and the same commit has the same version and the same bytes.
//! `fpm.json` may also have `architecture` (`all` when not said) and fpm's other names for fields of a package.

use super::super::{Done, Failure, Job, object, optional_text};
use crate::delivery::ci::{self, Convention, Metadata};
use crate::delivery::deb::{self, Build, Built, Scripts};
use crate::git::Checkout;
use crate::model::{Object, Value};

/// Where in the workspace the tree and the package stand.
const TREE: &str = "package";
const PACKAGES: &str = "packages";
/// What never goes into a package.
const LEFT_OUT: [&str; 1] = [".git"];
/// How much of a commit's hash stands in a version.
const SHORT_HASH: usize = 8;
/// What of `fpm.json` goes to the package under the same name, beside what the convention reads itself.
const PASSED_ON: [&str; 11] = [
    "architecture",
    "epoch",
    "priority",
    "pre_depends",
    "conflicts",
    "breaks",
    "provides",
    "replaces",
    "recommends",
    "suggests",
    "config_files",
];

pub(super) async fn build(job: Job) -> Result<Done, Failure> {
    let checkout = super::ci::checkout(&job, TREE).await?;
    let convention = ci::read(&job.workspace.join(TREE))?;
    let name = match optional_text(&job.parameters, "name")? {
        Some(name) => name.to_owned(),
        None => convention.metadata.name.clone().unwrap_or_else(|| name_of(&job.parameters)),
    };
    let order = order(&convention, &checkout, &name)?;
    let built = write(&job, order).await?;
    job.note(&format!("made {} {} ({})", built.name, built.version, built.path.display()));
    Ok(Done::with(object([
        ("deb", Value::from(built.path.display().to_string())),
        ("name", Value::from(built.name)),
        ("version", Value::from(built.version)),
        ("sha256", Value::from(built.sha256)),
        ("commit", Value::from(checkout.commit)),
    ])))
}

/// What the repository is called at the end of its address.
fn name_of(parameters: &Value) -> String {
    let repository = parameters.get("repository").and_then(Value::as_str).unwrap_or_default();
    let last = repository.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").unwrap_or(last).to_owned()
}

fn order(convention: &Convention, checkout: &Checkout, name: &str) -> Result<Build, Failure> {
    let metadata = &convention.metadata;
    let package = deb::control::package_name(name).map_err(Failure::new)?;
    let seconds = checkout.time.0.div_euclid(1000).max(0);
    let short: String = checkout.commit.chars().take(SHORT_HASH).collect();
    let order = passed_on(metadata)?;
    Ok(Build {
        prefix: Some(format!("/opt/{package}")),
        name: package,
        version: metadata.version.clone(),
        iteration: Some(format!("{seconds}-{short}")),
        architecture: order.architecture.clone().or_else(|| Some("all".to_owned())),
        maintainer: metadata.maintainer.clone(),
        description: metadata.description.clone(),
        license: metadata.license.clone(),
        vendor: metadata.vendor.clone(),
        url: metadata.homepage.clone(),
        category: metadata.section.clone(),
        depends: metadata.depends.clone(),
        chdir: Some(convention.tree.clone()),
        excludes: LEFT_OUT.map(str::to_owned).to_vec(),
        scripts: Scripts { after_install: convention.after_install.clone(), ..Scripts::default() },
        source_date_epoch: u64::try_from(seconds).ok(),
        overwrite: true,
        ..order
    })
}

/// The further fields of `fpm.json`, as an order with nothing else in it.
fn passed_on(metadata: &Metadata) -> Result<Build, Failure> {
    if let Some(unknown) = metadata.other.keys().find(|key| !PASSED_ON.contains(&key.as_str())) {
        return Err(Failure::new(format!(
            "`{unknown}` in fpm.json is not known; beside the usual fields there may be {}",
            PASSED_ON.join(", ")
        )));
    }
    let fields: Object = metadata.other.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    serde_json::from_value(Value::Object(fields)).map_err(|error| Failure::new(format!("fpm.json: {error}")))
}

async fn write(job: &Job, order: Build) -> Result<Built, Failure> {
    let folder = job.workspace.join(PACKAGES);
    let make = move || -> Result<Built, Failure> {
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::new(format!("`{}` can't be made: {error}", folder.display())))?;
        Ok(order.write_to(&folder)?)
    };
    super::blocking(make).await
}

impl From<deb::Error> for Failure {
    fn from(error: deb::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Timestamp;

    fn order_of(fpm: Value, seconds: i64, commit: &str) -> Result<Build, Failure> {
        let metadata = ci::parse_metadata(fpm.to_string().as_bytes()).unwrap();
        let tree = std::path::PathBuf::from("/tree");
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
