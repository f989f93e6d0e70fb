//! The repositories that a server keeps, as `config.apt` of siskin.yaml names them: one without a name, and any number with.

use std::path::{Path, PathBuf};

use crate::model::Value;

/// A repository, its key, and where it is copied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// None is the repository that is meant when nobody names one.
    pub name: Option<String>,
    pub directory: PathBuf,
    pub key: PathBuf,
    pub mirrors: Vec<String>,
    /// How ssh gets to mirrors; the user's own keys and known hosts when not said.
    pub ssh_key: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
}

/// Names that would hide what lies in the repository without a name, under the same address.
const TAKEN: [&str; 4] = ["dists", "pool", "key.gpg", "key.asc"];

/// What `config` names; in `data` lies what it says nothing of.
pub fn places(config: &Value, data: &Path) -> Result<Vec<Place>, String> {
    let mut found = vec![place(None, config, "config.apt", data)?];
    let named = match config.get("repositories") {
        None | Some(Value::Null) => return Ok(found),
        Some(Value::Object(named)) => named,
        Some(_) => return Err("`config.apt.repositories` must be a map of names to repositories".to_owned()),
    };
    for (name, config) in named {
        let where_said = format!("config.apt.repositories.{name}");
        if super::check_name("repository", name).is_err() || TAKEN.contains(&name.as_str()) {
            return Err(format!(
                "`{where_said}`: a repository can't have this name; use letters, digits and - _ . +"
            ));
        }
        if !config.is_object() {
            return Err(format!("`{where_said}` must be a map with `repository`, and perhaps `key`"));
        }
        found.push(place(Some(name), config, &where_said, data)?);
    }
    Ok(found)
}

/// The repository called so; the one without a name when none is asked for.
pub fn find(config: &Value, data: &Path, name: Option<&str>) -> Result<Place, String> {
    let all = places(config, data)?;
    let names: Vec<String> = all.iter().filter_map(|place| place.name.clone()).collect();
    all.into_iter().find(|place| place.name.as_deref() == name).ok_or_else(|| {
        let known =
            if names.is_empty() { "names none".to_owned() } else { format!("has {}", names.join(", ")) };
        format!(
            "there is no repository `{}`; `config.apt.repositories` of siskin.yaml {known}",
            name.unwrap_or_default()
        )
    })
}

fn place(name: Option<&str>, config: &Value, where_said: &str, data: &Path) -> Result<Place, String> {
    let path = |key: &str| absolute(config, key, where_said);
    // Beside the first repository, not below it: nothing of one is part of another.
    let usual = name.map_or_else(|| data.join("apt"), |name| data.join("apt-repositories").join(name));
    let usual_key = match name {
        None => data.join("keys/apt.asc"),
        Some(name) => data.join("keys/apt").join(format!("{name}.asc")),
    };
    Ok(Place {
        name: name.map(str::to_owned),
        directory: path("repository")?.unwrap_or(usual),
        key: path("key")?.unwrap_or(usual_key),
        mirrors: mirrors(config, where_said)?,
        ssh_key: path("ssh_key")?,
        known_hosts: path("known_hosts")?,
    })
}

fn absolute(config: &Value, key: &str, where_said: &str) -> Result<Option<PathBuf>, String> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(path)) if Path::new(path).is_absolute() => Ok(Some(PathBuf::from(path))),
        Some(_) => Err(format!("`{where_said}.{key}` of siskin.yaml must be an absolute path")),
    }
}

fn mirrors(config: &Value, where_said: &str) -> Result<Vec<String>, String> {
    let wrong = || {
        format!("`{where_said}.mirrors` of siskin.yaml must be a list of directories and ssh:// addresses")
    };
    let items = match config.get("mirrors") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items.clone(),
        Some(one) => vec![one.clone()],
    };
    items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_lies_in_the_data_directory() {
        let all = places(&json!({"repositories": {"tools": {}, "web": {"repository": "/srv/web", "mirrors": "/srv/copy"}}}), Path::new("/data")).unwrap();
        let said: Vec<_> = all
            .iter()
            .map(|place| {
                (place.name.as_deref(), place.directory.to_str().unwrap(), place.key.to_str().unwrap())
            })
            .collect();
        assert_eq!(
            said,
            [
                (None, "/data/apt", "/data/keys/apt.asc"),
                (Some("tools"), "/data/apt-repositories/tools", "/data/keys/apt/tools.asc"),
                (Some("web"), "/srv/web", "/data/keys/apt/web.asc"),
            ]
        );
        assert_eq!(all[2].mirrors, ["/srv/copy"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (config, said) in [
            (json!({"repository": "here"}), "config.apt.repository"),
            (json!({"mirrors": [1]}), "config.apt.mirrors"),
            (json!({"repositories": []}), "config.apt.repositories"),
            (json!({"repositories": {"pool": {}}}), "config.apt.repositories.pool"),
            (json!({"repositories": {"../x": {}}}), "config.apt.repositories.../x"),
            (json!({"repositories": {"x": "/srv"}}), "config.apt.repositories.x"),
        ] {
            let error = places(&config, Path::new("/data")).unwrap_err();
            assert!(error.contains(said), "{config}: {error}");
        }
        let error = find(&json!({"repositories": {"web": {}}}), Path::new("/data"), Some("wbe")).unwrap_err();
        assert!(error.contains("has web"), "{error}");
    }
}
