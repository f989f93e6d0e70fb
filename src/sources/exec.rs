//! Source `exec`: a program that runs as long as the source, and prints one JSON event a line.
//!
//! The payload is what the line holds. A line that is no JSON is left out and said; one of more than a MiB too. What goes to stderr is the program's own
//! affair: its last line is shown when it ends. A program that ends, whatever its exit status, is started again. It gets SIGTERM when the source ends,
//! and SIGKILL three seconds later, with everything that it started.
//!
//! While the database takes nothing, nothing is read: the program waits in its write. What a program printed that was killed is read to the end.
//! `cursor` is how a program knows where to go on: what the template gives for the last event that was stored is in its environment as `SISKIN_CURSOR`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, subject};
use crate::definitions::live::Exec;
use crate::model::{Span, Value};
use crate::process::{self, Command, Ended, LINE_BYTES, Stream};

/// The longest line.
const LONGEST: usize = 1024 * 1024;
/// Between SIGTERM and SIGKILL: less than a server takes to stop.
const GRACE: Span = Span::seconds(3);
/// A program that lives for so long has begun well, also when it says nothing.
const BEGINS: Duration = Duration::from_secs(1);

/// What was printed and is not stored yet.
#[derive(Debug, Default)]
struct Printed {
    lines: VecDeque<Result<Value, String>>,
    /// The beginning of a line that came in pieces.
    begun: Vec<u8>,
    /// The rest of this line is dropped.
    too_long: bool,
}

impl Printed {
    /// Takes in a line, or one of its pieces: those are `LINE_BYTES` long, all but the last.
    fn take(&mut self, piece: &[u8]) {
        let is_piece = piece.len() == LINE_BYTES;
        if self.too_long {
            self.too_long = is_piece;
            return;
        }
        self.begun.extend_from_slice(piece);
        if self.begun.len() > LONGEST {
            self.begun.clear();
            self.too_long = is_piece;
            self.lines.push_back(Err(format!("a line has more than {} KiB", LONGEST / 1024)));
            return;
        }
        let read = serde_json::from_slice::<Value>(&self.begun);
        if is_piece && read.is_err() {
            return; // More of it comes.
        }
        let line = std::mem::take(&mut self.begun);
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let shown: String = String::from_utf8_lossy(&line).chars().take(80).collect();
        self.lines.push_back(read.map_err(|error| format!("a line is no JSON ({error}): {shown}")));
    }
}

pub(super) async fn run(seat: &mut Seat, exec: &Exec) -> Result<(), Trouble> {
    let stored = seat.open(subject(&["exec"])).await?;
    let mut cursor = stored.unwrap_or(Value::Null);
    let command = command(seat, exec, &cursor).await?;
    let printed = Arc::new(Mutex::new(Printed::default()));
    let inbox = || printed.lock().unwrap_or_else(PoisonError::into_inner);
    let came = Arc::new(Notify::new());
    let mut on_line = {
        let (printed, came) = (Arc::clone(&printed), Arc::clone(&came));
        move |stream: Stream, line: &[u8]| {
            if stream == Stream::Stdout {
                printed.lock().unwrap_or_else(PoisonError::into_inner).take(line);
                came.notify_one();
            }
        }
    };
    let end = seat.end.clone();
    let running = process::run(command, &mut on_line, &end, None);
    tokio::pin!(running);
    let began_well = tokio::time::sleep(BEGINS);
    tokio::pin!(began_well);
    let mut is_well = false;
    let finished = loop {
        // One after the other: what is printed while something is stored waits in the pipe, not here.
        tokio::select! {
            finished = &mut running => break finished,
            () = &mut began_well, if !is_well => {
                is_well = true;
                seat.well();
            }
            () = came.notified() => {
                is_well = true;
                seat.well();
                while !inbox().lines.is_empty() {
                    store(seat, exec, &printed, &mut cursor).await?;
                }
            }
        }
    };
    while !inbox().lines.is_empty() {
        store(seat, exec, &printed, &mut cursor).await?;
    }
    let finished = finished?;
    match finished.ended {
        Ended::Cancelled => Ok(()),
        ended => Err(Trouble::new(format!("the program ended ({ended}): {}", finished.last_words()))),
    }
}

async fn command(seat: &Seat, exec: &Exec, cursor: &Value) -> Result<Command, Trouble> {
    let mut parts = Vec::new();
    for part in &exec.command {
        parts.push(seat.setting("command", part).await?);
    }
    let mut parts = parts.into_iter();
    let program = parts.next().ok_or_else(|| Trouble::new("`command` names no program"))?;
    let mut command = Command::new(program).args(parts).grace(GRACE).keep(4096);
    for (name, value) in &exec.env {
        command = command.env(name, seat.setting(name, value).await?);
    }
    if let Some(folder) = seat.optional("cwd", exec.cwd.as_ref()).await? {
        command = command.cwd(folder);
    }
    Ok(command.env("SISKIN_CURSOR", cursor.as_str().unwrap_or_default()))
}

/// Stores what was printed, some lines at a time.
async fn store(
    seat: &mut Seat,
    exec: &Exec,
    printed: &Mutex<Printed>,
    cursor: &mut Value,
) -> Result<(), Trouble> {
    let lines: Vec<_> = {
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = printed.lines.len().min(MOST_AT_ONCE);
        printed.lines.drain(..count).collect()
    };
    let mut seen = Vec::new();
    for line in lines {
        match line {
            Ok(body) => seen.push(Sight::of(body)),
            Err(why) => seat.refuse(why),
        }
    }
    if let (Some(template), Some(last)) = (&exec.cursor, seen.last()) {
        match seat.text_of("cursor", template, &last.body) {
            Ok(text) => *cursor = json!(text),
            Err(why) => seat.note_error(why),
        }
    }
    if seen.is_empty() {
        return Ok(());
    }
    seat.store(seen, cursor.clone()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of lines as they come out of a program.
    fn read(lines: &[&[u8]]) -> Vec<Result<Value, String>> {
        let mut printed = Printed::default();
        for line in lines {
            line.chunks(LINE_BYTES).for_each(|piece| printed.take(piece));
        }
        printed.lines.into_iter().collect()
    }

    #[test]
    fn long_lines_are_put_together_and_too_long_ones_left_out() {
        let text = |length: usize| json!("x".repeat(length)).to_string();
        let (long, exact, endless) = (text(200_000), text(LINE_BYTES - 2), text(LONGEST));
        let lines = [exact.as_bytes(), b"1", long.as_bytes(), endless.as_bytes(), b"  ", b"oops", b"{}"];
        let read = read(&lines);
        assert_eq!(read.len(), 6);
        assert_eq!(
            read.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, true, false, false, true]
        );
        assert_eq!(read[2], Ok(json!("x".repeat(200_000))));
    }
}
