//! When something happens again and again: a cron pattern or a list of times, in a time zone; or every so often.
//!
//! Promises: a time that summer time skips happens when the clocks have gone forward; one that the clock shows twice happens the first time only, unless
//! the pattern is for every hour or minute; `next` never gives a time twice. Pure: it is told what time it is.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::sheet::{Sheet, Table};
use super::window;
use super::yaml::Node;
use crate::model::{Span, Timestamp};

/// What becomes of times that came while nobody was there to see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// The last of them happens, late; the others do not.
    #[default]
    One,
    /// Each of them happens, late.
    All,
    /// None of them happens.
    None,
}

/// At which times, by the clock on somebody's wall.
#[derive(Clone, Debug)]
pub struct Schedule {
    patterns: Vec<Cron>,
    /// In order.
    once: Vec<Timestamp>,
    zone: TimeZone,
    pub catch_up: CatchUp,
    /// Two schedules of the same subject have the same times.
    pub subject: String,
}

impl Schedule {
    /// The first time after `after`; `None` when there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = jiff::Timestamp::from_millisecond(after.0).ok()?.to_zoned(self.zone.clone());
        let by_pattern = self.patterns.iter().filter_map(|pattern| {
            let found = pattern.find_next_occurrence(&start, false).ok()?;
            Some(Timestamp(found.timestamp().as_millisecond()))
        });
        let at = self.once.partition_point(|once| *once <= after);
        by_pattern.chain(self.once.get(at).copied()).filter(|found| *found > after).min()
    }

    /// The next `count` times after `after`; fewer when there are no more.
    pub fn next_times(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next(after), |last| self.next(*last)).take(count).collect()
    }

    /// What the clock shows at `at` where the schedule is: `2026-11-21T02:30:00+01:00[Europe/Berlin]`.
    pub fn local(&self, at: Timestamp) -> String {
        match jiff::Timestamp::from_millisecond(at.0) {
            Ok(instant) => instant.to_zoned(self.zone.clone()).to_string(),
            Err(_) => at.to_string(),
        }
    }
}

/// Every so often, counted from when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub every: Span,
    pub catch_up: CatchUp,
}

/// Reads the keys `cron`, `times`, `time_zone` and `catch_up` of a table.
pub(super) fn read(table: &Table<'_>) -> Option<Schedule> {
    let sheet = table.sheet;
    let catch_up = catch_up(table);
    let zone = table.get("time_zone").map_or(Some(TimeZone::UTC), |node| window::zone(sheet, node));
    let crons = table.get("cron").map(|node| sheet.one_or_list(node)).unwrap_or_default();
    let mut patterns: Vec<Option<Cron>> = crons.iter().map(|node| pattern(sheet, node)).collect();
    let mut once = Vec::new();
    for node in table.get("times").map(|node| sheet.one_or_list(node)).unwrap_or_default() {
        match (time(sheet, node), &zone) {
            (Some(At::Daily(cron)), _) => patterns.push(Some(*cron)),
            (Some(At::Once(at)), Some(zone)) => once.push(at.instant(zone)),
            _ => patterns.push(None),
        }
    }
    let (patterns, zone) = (patterns.into_iter().collect::<Option<Vec<Cron>>>()?, zone?);
    let mut once = once.into_iter().collect::<Option<Vec<Timestamp>>>()?;
    once.sort_unstable();
    once.dedup();
    let written: Vec<&str> = patterns.iter().map(Cron::as_str).collect();
    let days: Vec<String> = once.iter().map(Timestamp::to_string).collect();
    let subject = format!("{};{};{}", written.join(","), days.join(","), zone.iana_name().unwrap_or("UTC"));
    Some(Schedule { patterns, once, zone, catch_up: catch_up?, subject })
}

/// `catch_up: one`, `all` or `none`.
pub(super) fn catch_up(table: &Table<'_>) -> Option<CatchUp> {
    let Some(node) = table.get("catch_up") else { return Some(CatchUp::One) };
    Some(match table.sheet.word(node, "catch_up", &["one", "all", "none"])? {
        "all" => CatchUp::All,
        "none" => CatchUp::None,
        _ => CatchUp::One,
    })
}

/// `30 2 * * mon-fri`
fn pattern(sheet: &Sheet<'_>, node: &Node) -> Option<Cron> {
    let text = sheet.name(node, "cron")?;
    let pattern = match cron(&text) {
        Ok(pattern) => pattern,
        Err(why) => {
            let help = "five fields: minute, hour, day of the month, month, day of the week; \"30 2 * * mon-fri\" is half past two on working days";
            sheet.wrong(node, format!("`{text}` is no cron pattern: {why}"), Some(help.to_owned()));
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

fn cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| window::reason(&error))
}

enum At {
    Daily(Box<Cron>),
    Once(Moment),
}

/// A day and time, with or without its distance from UTC.
enum Moment {
    Fixed(Timestamp),
    Local(DateTime),
}

impl Moment {
    fn instant(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Moment::Fixed(at) => Some(at),
            // A time that is not there is the one after the gap, one that is there twice the first.
            Moment::Local(at) => {
                Some(Timestamp(zone.to_ambiguous_zoned(at).compatible().ok()?.timestamp().as_millisecond()))
            }
        }
    }
}

/// `08:30`, `2026-12-24 18:00` or `2026-12-24T18:00:00Z`
fn time(sheet: &Sheet<'_>, node: &Node) -> Option<At> {
    let text = sheet.name(node, "times")?;
    let text = text.trim();
    let daily = || {
        let (hour, minute) = text.split_once(':')?;
        let two = |part: &str| (part.len() <= 2).then(|| part.parse::<u8>().ok()).flatten();
        let (hour, minute) =
            (two(hour).filter(|hour| *hour < 24)?, two(minute).filter(|minute| *minute < 60)?);
        cron(&format!("{minute} {hour} * * *")).ok().map(Box::new).map(At::Daily)
    };
    let once = || {
        let fixed = text.parse::<Timestamp>().ok().map(Moment::Fixed);
        let local = || text.parse::<DateTime>().ok().filter(|_| text.len() > 10).map(Moment::Local);
        fixed.or_else(local).map(At::Once)
    };
    let found = daily().or_else(once);
    if found.is_none() {
        let help = "08:30 is each day, \"2026-12-24 18:00\" is once, both in `time_zone`; \"2026-12-24T18:00:00Z\" is once in UTC";
        sheet.wrong(node, format!("`{text}` is no time"), Some(help.to_owned()));
    }
    found
}
