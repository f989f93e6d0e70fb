//! The table that is printed: a line as soon as it is measured, and all of them at the end.

use std::fmt::Write;

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Table {
    text: String,
}

impl Table {
    pub(crate) fn title(&mut self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    /// A value beside the limit of the machine that it is held against.
    pub(crate) fn against(&mut self, what: &str, value: f64, unit: &str, limit: f64, limit_is: &str) {
        let ratio = if limit > 0.0 { format!("{:5.1} %", 100.0 * value / limit) } else { "-".to_owned() };
        let limit = format!("{} {unit}", number(limit));
        self.row(what, value, unit, &format!("{limit:>16}  {ratio:>8}  of {limit_is}"));
    }

    /// A value with nothing to hold it against but what we aim at.
    pub(crate) fn plain(&mut self, what: &str, value: f64, unit: &str, aim: &str) {
        self.row(what, value, unit, aim);
    }

    /// A measurement that could not be made, and why.
    pub(crate) fn missing(&mut self, what: &str, why: &str) {
        self.line(&format!("  {what:<46} {:>16}  {why}", "-"));
    }

    pub(crate) fn whole(&self) -> &str {
        self.text.trim_start()
    }

    fn row(&mut self, what: &str, value: f64, unit: &str, more: &str) {
        let value = format!("{} {unit}", number(value));
        self.line(&format!("  {what:<46} {value:>16}  {more}"));
    }

    fn line(&mut self, line: &str) {
        println!("{}", line.trim_end());
        writeln!(self.text, "{}", line.trim_end()).unwrap();
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
