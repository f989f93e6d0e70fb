//! Which variables of the server's environment a program sees. A short list, so that what configures the server (its tokens and
//! keys among it) does not reach actions.

use super::Command;

/// Inherited by every program, unless its command clears the environment; also every `LC_*`.
pub const INHERITED: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The whole environment of a program, in which the command's own variables win.
pub(super) fn of(command: &Command) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    if !command.clear_env {
        let inherits = |name: &str| INHERITED.contains(&name) || name.starts_with("LC_");
        let own = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        variables.extend(own.filter(|(name, _)| inherits(name)));
        if !variables.iter().any(|(name, _)| name == "PATH") {
            variables
                .push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
        }
    }
    for (name, value) in &command.env {
        variables.retain(|(known, _)| known != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_wins_over_what_is_inherited() {
        let variables = of(&Command::new("true").env("PATH", "/nowhere").env("A", "1").env("A", "2"));
        assert_eq!(variables.iter().filter(|(name, _)| name == "PATH").count(), 1);
        assert!(variables.contains(&("PATH".into(), "/nowhere".into())));
        assert!(variables.contains(&("A".into(), "2".into())));
        assert!(!variables.contains(&("A".into(), "1".into())));
    }

    #[test]
    fn only_the_list_is_inherited() {
        // Cargo sets CARGO_* for its tests: variables of ours that no program should see.
        assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")));
        assert!(of(&Command::new("true")).iter().all(|(name, _)| !name.starts_with("CARGO")));
        assert!(of(&Command::new("true").clear_env()).is_empty());
    }
}
