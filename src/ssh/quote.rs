//! The one place that makes shell text of data.

/// `text` as one word of a POSIX shell, whatever it holds. A NUL byte, which no shell can be given, must be refused before.
pub fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,+@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Words as one command line.
pub fn quote_all<T: AsRef<str>>(words: &[T]) -> String {
    words.iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// A name that a shell variable can have.
pub fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HOSTILE: [&str; 14] = [
        "",
        "plain",
        "two words",
        "it's",
        "'; touch /tmp/x; '",
        "$(touch /tmp/x)`id`${HOME}",
        "\"quoted\" \\ back\\slash\\",
        "line\nbreak\r\ttab",
        "-rf",
        "~root *.rs [a-z] ?",
        "!history #comment",
        "a&b|c<d>e;f",
        "ünïcødé \u{1f426} \u{202e}",
        "''''\\'",
    ];

    #[test]
    fn a_shell_reads_back_exactly_what_was_quoted() {
        let script = format!("printf '%s\\0' {}", quote_all(&HOSTILE));
        for shell in ["sh", "bash"] {
            let output = std::process::Command::new(shell).arg("-c").arg(&script).output().unwrap();
            let words: Vec<String> = output
                .stdout
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8(word.to_vec()).unwrap())
                .collect();
            assert_eq!(words[..HOSTILE.len()], HOSTILE, "{shell}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
        #[test]
        fn any_text_survives(text in "[^\u{0}]{0,40}") {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(&text))).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn names_of_variables() {
        assert!(is_variable("A_1") && is_variable("_x"));
        assert!(
            !is_variable("")
                && !is_variable("1A")
                && !is_variable("A-B")
                && !is_variable("A=B")
                && !is_variable("A;id")
        );
    }
}
