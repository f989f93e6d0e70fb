//! Which texts are addresses of repositories, and how one is shown.

/// Says why `url` is no address that may be given to git.
pub(super) fn check(url: &str) -> Result<(), &'static str> {
    if url.is_empty() {
        return Err("it is empty");
    }
    if url.starts_with('-') {
        return Err("it begins with `-`");
    }
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return Err("it has a space or control character; write a space as %20");
    }
    if url.starts_with('/') {
        return Ok(());
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        if !["http", "https", "ssh", "git", "file"].contains(&scheme) {
            return Err("only http, https, ssh, git and file are allowed");
        }
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        return match host.is_empty() || host.starts_with('-') {
            true => Err("it has no host"),
            false => Ok(()),
        };
    }
    if url.contains("::") {
        return Err("remote helpers (`name::`) are not allowed");
    }
    let Some((host, path)) = url.split_once(':') else {
        return Err("it is neither a URL, nor `user@host:path`, nor an absolute path");
    };
    let name = host.rsplit_once('@').map_or(host, |(_, name)| name);
    match name.is_empty() || name.starts_with('-') || name.contains('/') || path.is_empty() {
        true => Err("it is neither a URL, nor `user@host:path`, nor an absolute path"),
        false => Ok(()),
    }
}

/// A URL as it may be shown: without its password, or the token in place of a user.
pub fn shown(url: &str) -> String {
    let safe = |text: &str| {
        text.chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect()
    };
    let Some((scheme, rest)) = url.split_once("://") else { return safe(url) };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let Some((who, host)) = authority.rsplit_once('@') else { return safe(url) };
    let who = match who.split_once(':') {
        Some((user, _)) => format!("{user}:***"),
        // Over HTTP a lone user is a token.
        None if scheme.starts_with("http") => "***".to_owned(),
        None => who.to_owned(),
    };
    safe(&format!("{scheme}://{who}@{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_git_may_be_given() {
        for fine in [
            "https://git.example.org/a.git",
            "http://u:p@127.0.0.1:3000/a/b",
            "ssh://git@host:22/x",
            "git@host:a/b.git",
            "/srv/git/a.git",
            "file:///srv/git/a.git",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for bad in [
            "",
            "-u",
            "--upload-pack=touch /tmp/x",
            "ext::sh -c touch",
            "ext::sh",
            "fd::3",
            "ftp://host/x",
            "ssh://-oProxyCommand=x/y",
            "git@-oProxyCommand=x:y",
            "-oProxyCommand=x:y",
            "a",
            "../a",
            "https://host/a\nb",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://bob:hunter2@host/a"), "https://bob:***@host/a");
        assert_eq!(shown("https://ghp_token@host/a"), "https://***@host/a");
        assert_eq!(shown("ssh://git@host/a"), "ssh://git@host/a");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
        assert_eq!(shown("git@host:a"), "git@host:a");
    }
}
