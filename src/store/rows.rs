//! Statements over many rows at once: what is asked of the database once costs little more for sixty-four rows than for one.
//!
//! The rows stand as `new(column, ...)` before the statement. There is one text for each power of two up to `MOST`, so that a connection
//! keeps them all prepared; rows that are missing to the next power are all null, and the statement must do nothing about those.

use std::fmt::Write as _;
use std::sync::OnceLock;

use super::StoreError;
use super::connection::{Connection, Readers};
use super::statement::{Argument, Record, Sql, sql};

/// Rows in one statement, at most.
const MOST: usize = 64;
/// Powers of two up to `MOST`.
const SIZES: usize = MOST.ilog2() as usize + 1;

/// A statement over rows of so many columns.
#[derive(Debug)]
pub(super) struct Rows<const COLUMNS: usize> {
    names: [&'static str; COLUMNS],
    statement: &'static str,
    texts: [OnceLock<String>; SIZES],
}

impl<const COLUMNS: usize> Rows<COLUMNS> {
    /// `statement` reads its rows from `new`, whose columns have these names. Of a row that is missing the first column is null.
    pub(super) const fn new(names: [&'static str; COLUMNS], statement: &'static str) -> Rows<COLUMNS> {
        Rows { names, statement, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// Runs it; how many rows it wrote.
    pub(super) async fn execute(
        &'static self,
        tx: &mut Connection,
        rows: Vec<[Argument<'_>; COLUMNS]>,
    ) -> Result<u64, StoreError> {
        let mut written = 0;
        for statement in self.statements(rows) {
            written += statement.execute(&mut *tx).await?;
        }
        Ok(written)
    }

    /// All rows that it gives.
    pub(super) async fn fetch_all<R: Record>(
        &'static self,
        tx: &mut Connection,
        rows: Vec<[Argument<'_>; COLUMNS]>,
    ) -> Result<Vec<R>, StoreError> {
        let mut found = Vec::new();
        for statement in self.statements(rows) {
            found.extend(statement.fetch_all::<R>(&mut *tx).await?);
        }
        Ok(found)
    }

    /// As `fetch_all`, beside all writes.
    pub(super) async fn read_all<R: Record>(
        &'static self,
        readers: &Readers,
        rows: Vec<[Argument<'_>; COLUMNS]>,
    ) -> Result<Vec<R>, StoreError> {
        let mut found = Vec::new();
        for statement in self.statements(rows) {
            found.extend(statement.fetch_all::<R>(readers).await?);
        }
        Ok(found)
    }

    fn statements<'q>(&'static self, rows: Vec<[Argument<'q>; COLUMNS]>) -> Vec<Sql<'q>> {
        let mut statements = Vec::new();
        let mut left = rows.len();
        let mut rows = rows.into_iter();
        while left > 0 {
            let taken = left.min(MOST);
            left -= taken;
            let size = taken.next_power_of_two();
            let mut statement = sql(self.text(size));
            let mut missing: Option<[Argument<'q>; COLUMNS]> = None;
            for row in rows.by_ref().take(taken) {
                missing.get_or_insert_with(|| row.each_ref().map(Argument::null));
                statement = row.into_iter().fold(statement, Sql::bind);
            }
            for row in std::iter::repeat_n(missing, size - taken).flatten() {
                statement = row.into_iter().fold(statement, Sql::bind);
            }
            statements.push(statement);
        }
        statements
    }

    /// The text for so many rows, a power of two.
    fn text(&'static self, rows: usize) -> &'static str {
        self.texts[rows.ilog2() as usize].get_or_init(|| {
            let mut text = format!("WITH new ({}) AS (VALUES ", self.names.join(", "));
            for row in 0..rows {
                text.push_str(if row == 0 { "(" } else { ", (" });
                for column in 1..=COLUMNS {
                    let comma = if column == 1 { "" } else { ", " };
                    // Writing to a string does not fail.
                    write!(text, "{comma}${}", row * COLUMNS + column).unwrap_or_default();
                }
                text.push(')');
            }
            write!(text, ") {}", self.statement).unwrap_or_default();
            text
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{fresh, on_both};

    on_both!(however_many_rows_there_are_each_is_written_once_and_in_order,);

    static ADD: Rows<2> = Rows::new(
        ["key", "value"],
        "INSERT INTO meta (key, value) SELECT key, value FROM new WHERE key IS NOT NULL",
    );
    static ASK: Rows<1> = Rows::new(["key"], "SELECT meta.value FROM new JOIN meta ON meta.key = new.key");

    async fn however_many_rows_there_are_each_is_written_once_and_in_order() {
        for count in [0, 1, 2, 3, 63, 64, 65, 200] {
            let (_folder, store) = fresh().await;
            let (written, found) = store
                .write(move |tx| {
                    Box::pin(async move {
                        let keys: Vec<String> = (0..count).map(|number| format!("row {number}")).collect();
                        let rows = keys.iter().map(|key| [key.into(), key.into()]).collect();
                        let written = ADD.execute(&mut *tx, rows).await?;
                        let mut asked: Vec<[Argument<'_>; 1]> = keys.iter().map(|key| [key.into()]).collect();
                        asked.push(["nobody".into()]);
                        Ok((written, ASK.fetch_all::<String>(tx, asked).await?))
                    })
                })
                .await
                .unwrap();
            assert_eq!((written, found.len()), (count, usize::try_from(count).unwrap()));
            let added = store.count("SELECT count(*) FROM meta WHERE key LIKE 'row %'").await;
            assert_eq!(added, i64::try_from(count).unwrap());
        }
    }
}
