//! Windows: the times at which a step may start. `windows` in siskin.yaml.
//!
//! Promises: a window is open in each minute of its time zone that one of its patterns matches, but on no closed date. A minute that the clock shows
//! twice, as summer time ends, is open both times; one that it never shows is not open at all. When it opens next is found without going through the
//! minutes, and two years ahead at most.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

use super::mistake::suggestion;
use super::sheet::{Keys, Sheet};
use super::yaml::Node;
use crate::model::{Span, Timestamp};

pub(super) const WINDOW: Keys = Keys { of: "a window", built: &["open", "closed", "time_zone"], later: &[] };

/// How far ahead an opening is looked for.
const AHEAD: Span = Span::days(731);
const MINUTE: i64 = 60_000;

/// When something may start.
#[derive(Clone, Debug)]
pub struct Window {
    open: Vec<croner::Cron>,
    /// First and last day of each, in order.
    closed: Vec<(Date, Date)>,
    zone: TimeZone,
}

/// How a window stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    Open,
    /// `until` is when it opens next; `None` when it does not within two years.
    Closed {
        until: Option<Timestamp>,
    },
}

impl Window {
    /// Whether it is open at `now`, and if not, from when on.
    pub fn state(&self, now: Timestamp) -> WindowState {
        let Ok(start) = jiff::Timestamp::from_millisecond(now.0.div_euclid(MINUTE).saturating_mul(MINUTE))
        else {
            return WindowState::Closed { until: None };
        };
        if self.is_open(self.zone.to_offset(start).to_datetime(start)) {
            return WindowState::Open;
        }
        WindowState::Closed { until: self.opens(start, now.plus(AHEAD)) }
    }

    fn is_open(&self, at: DateTime) -> bool {
        let is_closed = self.closed.iter().any(|(first, last)| (*first..=*last).contains(&at.date()));
        !is_closed && self.open.iter().any(|pattern| pattern.is_time_matching(&at).unwrap_or(false))
    }

    /// The first open minute from `start` on. Between two changes of the clock its hands only go forward, so each such stretch is looked at
    /// by itself.
    fn opens(&self, start: jiff::Timestamp, end: Timestamp) -> Option<Timestamp> {
        let mut start = start;
        loop {
            let offset = self.zone.to_offset(start);
            let next = self.zone.following(start).next().map(|transition| transition.timestamp());
            let stop = next.map_or(end, |next| end.min(Timestamp(next.as_millisecond())));
            let last = jiff::Timestamp::from_millisecond(stop.0).ok()?;
            if let Some(found) = self.opens_between(offset.to_datetime(start), offset.to_datetime(last)) {
                return at_offset(found, offset);
            }
            start = next.filter(|next| next.as_millisecond() < end.0)?;
        }
    }

    /// The first open minute from `at` on and before `end`.
    fn opens_between(&self, mut at: DateTime, end: DateTime) -> Option<DateTime> {
        loop {
            let found =
                self.open.iter().filter_map(|pattern| pattern.find_next_occurrence(&at, true).ok()).min()?;
            if found >= end {
                return None;
            }
            let closed = self.closed.iter().find(|(first, last)| (*first..=*last).contains(&found.date()));
            let Some((_, last)) = closed else { return Some(found) };
            at = last.tomorrow().ok()?.to_datetime(Time::midnight());
        }
    }
}

fn at_offset(at: DateTime, offset: Offset) -> Option<Timestamp> {
    offset.to_timestamp(at).ok().map(|at| Timestamp(at.as_millisecond()))
}

/// Reads `{open, closed, time_zone}`.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node) -> Option<Window> {
    let table = sheet.table(node, &WINDOW)?;
    let open = table.need("open").and_then(|node| {
        let nodes = sheet.one_or_list(node);
        if nodes.is_empty() {
            sheet.wrong(node, "`open` has no pattern, so this window would never open", None);
        }
        gather(nodes, |node| pattern(sheet, node))
    });
    let closed = table.get("closed").map(|node| gather(sheet.one_or_list(node), |node| dates(sheet, node)));
    let zone = table.get("time_zone").map(|node| zone(sheet, node));
    let mut closed = closed.unwrap_or_else(|| Some(Vec::new()))?;
    closed.sort_unstable();
    Some(Window {
        open: open.filter(|open| !open.is_empty())?,
        closed,
        zone: zone.unwrap_or(Some(TimeZone::UTC))?,
    })
}

/// All of them, or nothing; each is looked at.
fn gather<T>(nodes: &[Node], read: impl Fn(&Node) -> Option<T>) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = nodes.iter().map(read).collect();
    read.into_iter().collect()
}

/// `* 9-16 * * mon-fri`
fn pattern(sheet: &Sheet<'_>, node: &Node) -> Option<croner::Cron> {
    use croner::parser::{CronParser, Seconds, Year};
    let text = sheet.name(node, "open")?;
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let pattern = match parser.parse(&text) {
        Ok(pattern) => pattern,
        Err(error) => {
            let help = "five fields: minute, hour, day of the month, month, day of the week; \"* 9-16 * * mon-fri\" is each minute of working hours";
            sheet.wrong(
                node,
                format!("`{text}` is no cron pattern: {}", reason(&error)),
                Some(help.to_owned()),
            );
            return None;
        }
    };
    // Any start does: the calendar repeats.
    let start = Date::constant(2000, 1, 1).to_datetime(Time::midnight());
    if pattern.find_next_occurrence(&start, true).is_err() {
        sheet.wrong(node, format!("`{text}` matches no minute of any year"), None);
        return None;
    }
    Some(pattern)
}

pub(super) fn reason(error: &croner::errors::CronError) -> String {
    use croner::errors::CronError;
    match error {
        CronError::EmptyPattern => "it is empty".to_owned(),
        CronError::InvalidPattern(text)
        | CronError::IllegalCharacters(text)
        | CronError::ComponentError(text) => {
            let text = text.trim_end_matches('.').replace(" when seconds are disallowed", "");
            let text = text.replace("CronPattern contains", "It has an");
            let mut letters = text.chars();
            letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

/// `2026-12-24`, or `2026-12-24..2027-01-02` with both of them.
fn dates(sheet: &Sheet<'_>, node: &Node) -> Option<(Date, Date)> {
    let whole = sheet.name(node, "closed")?;
    let (first, last) = whole.split_once("..").unwrap_or((&whole, &whole));
    let day = |text: &str| {
        let text = text.trim();
        let day = text.parse::<Date>().ok().filter(|_| text.len() == 10);
        if day.is_none() {
            let help = "write a day as 2026-12-24, or days as 2026-12-24..2027-01-02".to_owned();
            let shown = if text.is_empty() { whole.as_str() } else { text };
            sheet.wrong(node, format!("`{shown}` is no date"), Some(help));
        }
        day
    };
    let (first, last) = (day(first)?, day(last)?);
    if last < first {
        sheet.wrong(node, format!("`{whole}` ends before it begins"), Some(format!("{last}..{first}")));
        return None;
    }
    Some((first, last))
}

pub(super) fn zone(sheet: &Sheet<'_>, node: &Node) -> Option<TimeZone> {
    let name = sheet.name(node, "time_zone")?;
    // Those in the binary: the same on every machine.
    let known = TimeZoneDatabase::bundled();
    if let Ok(zone) = known.get(&name) {
        return Some(zone);
    }
    let names: Vec<String> = known.available().map(|name| name.to_string()).collect();
    let help = suggestion(&name, names.iter().map(String::as_str));
    let example = || "names are those of the IANA: UTC, Europe/Berlin, America/New_York".to_owned();
    sheet.wrong(node, format!("there is no time zone `{name}`"), help.or_else(|| Some(example())));
    None
}
