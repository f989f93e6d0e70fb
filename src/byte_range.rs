//! One range of bytes, as `Range: bytes=...` asks for it.

/// Some of the bytes of a file: from one to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub from: u64,
    pub to: u64,
}

/// What a request wants of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Part(Part),
    /// Nothing of it is there.
    Nothing,
}

/// One range of bytes; what is not understood, or several, means the whole, as the standard wants it.
pub fn wanted(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let part = match (first.trim(), last.trim()) {
        ("", last) => last.parse::<u64>().map(|count| Part { from: size.saturating_sub(count), to: size }),
        (first, "") => first.parse().map(|from| Part { from, to: size }),
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(from), Ok(last)) if from <= last => Ok(Part { from, to: size.min(last.saturating_add(1)) }),
            (Ok(_), Ok(_)) => return Wanted::All,
            (Err(error), _) | (_, Err(error)) => Err(error),
        },
    };
    match part {
        Ok(part) if part.from < part.to => Wanted::Part(part),
        Ok(_) => Wanted::Nothing,
        Err(_) => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_everything_else_is_the_whole() {
        let part = |from, to| Wanted::Part(Part { from, to });
        for (range, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-", part(2, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=4-99", part(4, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(wanted(range, 10), expected, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }
}
