//! Statements that run on both databases from one text: what they are given, and how their rows are read.
//!
//! There are three kinds of columns: whole numbers of 64 bits, texts and bytes; booleans are 0 and 1. Where the texts must differ, the
//! caller asks the connection for its `dialect` and chooses.
//!
//! PostgreSQL keeps no character NUL in a text. There it is written as two others and read back as it came, so that both databases
//! keep the same texts; see `escape`.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Postgres, Row as _, Sqlite};

use super::StoreError;
use super::connection::{Connection, Readers};

/// A statement with what it is given. Parameters are `$1`, `$2` ...
#[derive(Debug)]
pub(super) struct Sql<'q> {
    text: Cow<'static, str>,
    arguments: Vec<Argument<'q>>,
}

/// A statement whose text grows with a filter.
pub(super) type Query = Sql<'static>;

/// A statement of this text.
pub(super) fn sql<'q>(text: &'static str) -> Sql<'q> {
    Sql { text: Cow::Borrowed(text), arguments: Vec::new() }
}

/// One parameter.
#[derive(Clone, Debug)]
pub(super) enum Argument<'q> {
    Integer(Option<i64>),
    Text(Option<Cow<'q, str>>),
    Bytes(Cow<'q, [u8]>),
}

impl Argument<'_> {
    /// Null in the place of such a value.
    pub(super) fn null<'q>(&self) -> Argument<'q> {
        match self {
            Argument::Integer(_) => Argument::Integer(None),
            Argument::Text(_) => Argument::Text(None),
            Argument::Bytes(_) => Argument::Bytes(Cow::Borrowed(&[])),
        }
    }
}

impl From<i64> for Argument<'_> {
    fn from(value: i64) -> Self {
        Argument::Integer(Some(value))
    }
}

impl From<Option<i64>> for Argument<'_> {
    fn from(value: Option<i64>) -> Self {
        Argument::Integer(value)
    }
}

impl<'q> From<&'q str> for Argument<'q> {
    fn from(value: &'q str) -> Self {
        Argument::Text(Some(Cow::Borrowed(value)))
    }
}

impl<'q> From<&'q String> for Argument<'q> {
    fn from(value: &'q String) -> Self {
        Argument::Text(Some(Cow::Borrowed(value)))
    }
}

impl From<String> for Argument<'_> {
    fn from(value: String) -> Self {
        Argument::Text(Some(Cow::Owned(value)))
    }
}

impl<'q> From<Option<&'q str>> for Argument<'q> {
    fn from(value: Option<&'q str>) -> Self {
        Argument::Text(value.map(Cow::Borrowed))
    }
}

impl<'q> From<&'q Option<String>> for Argument<'q> {
    fn from(value: &'q Option<String>) -> Self {
        Argument::Text(value.as_deref().map(Cow::Borrowed))
    }
}

impl From<Option<String>> for Argument<'_> {
    fn from(value: Option<String>) -> Self {
        Argument::Text(value.map(Cow::Owned))
    }
}

impl<'q> From<&'q Vec<u8>> for Argument<'q> {
    fn from(value: &'q Vec<u8>) -> Self {
        Argument::Bytes(Cow::Borrowed(value))
    }
}

impl From<Vec<u8>> for Argument<'_> {
    fn from(value: Vec<u8>) -> Self {
        Argument::Bytes(Cow::Owned(value))
    }
}

/// Where a statement that reads is run: in a transaction that writes, or beside all of them.
#[derive(Debug)]
pub(super) enum On<'c> {
    Connection(&'c mut Connection),
    Readers(&'c Readers),
}

impl<'c> From<&'c mut Connection> for On<'c> {
    fn from(connection: &'c mut Connection) -> Self {
        On::Connection(connection)
    }
}

impl<'c> From<&'c Readers> for On<'c> {
    fn from(readers: &'c Readers) -> Self {
        On::Readers(readers)
    }
}

impl Query {
    /// A statement that begins with `text`.
    pub(super) fn new(text: &'static str) -> Query {
        sql(text)
    }

    /// Adds to the text.
    pub(super) fn push(&mut self, text: &str) -> &mut Query {
        self.text.to_mut().push_str(text);
        self
    }

    /// Adds a parameter, in the text too.
    pub(super) fn push_bind(&mut self, value: impl Into<Argument<'static>>) -> &mut Query {
        self.arguments.push(value.into());
        // Writing to a string does not fail.
        write!(self.text.to_mut(), "${}", self.arguments.len()).unwrap_or_default();
        self
    }

    /// Adds parameters with commas between them.
    pub(super) fn push_list<T: Into<Argument<'static>>>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Query {
        for (position, value) in values.into_iter().enumerate() {
            if position > 0 {
                self.push(", ");
            }
            self.push_bind(value);
        }
        self
    }
}

impl<'q> Sql<'q> {
    /// Gives it the next parameter.
    pub(super) fn bind(mut self, value: impl Into<Argument<'q>>) -> Sql<'q> {
        self.arguments.push(value.into());
        self
    }

    /// Runs it; how many rows it wrote.
    pub(super) async fn execute(self, connection: &mut Connection) -> Result<u64, StoreError> {
        match connection {
            Connection::Sqlite(connection) => {
                Ok(self.for_sqlite()?.execute(&mut **connection).await?.rows_affected())
            }
            Connection::Postgres(connection) => {
                Ok(self.for_postgres()?.execute(&mut ***connection).await?.rows_affected())
            }
        }
    }

    /// All rows that it gives.
    pub(super) async fn fetch_all<R: Record>(self, on: impl Into<On<'_>>) -> Result<Vec<R>, StoreError> {
        match on.into() {
            On::Connection(Connection::Sqlite(connection)) => {
                of_sqlite(self.for_sqlite()?.fetch_all(&mut **connection).await?)
            }
            On::Connection(Connection::Postgres(connection)) => {
                of_postgres(self.for_postgres()?.fetch_all(&mut ***connection).await?)
            }
            On::Readers(Readers::Sqlite(pool)) => of_sqlite(self.for_sqlite()?.fetch_all(pool).await?),
            On::Readers(Readers::Postgres(readers)) => of_postgres(readers.fetch_all(&self).await?),
        }
    }

    /// The row that it gives, if there is one.
    pub(super) async fn fetch_optional<R: Record>(
        self,
        on: impl Into<On<'_>>,
    ) -> Result<Option<R>, StoreError> {
        Ok(self.fetch_all(on).await?.into_iter().next())
    }

    /// The row that it gives: statements that always give one.
    pub(super) async fn fetch_one<R: Record>(self, on: impl Into<On<'_>>) -> Result<R, StoreError> {
        self.fetch_optional(on).await?.ok_or_else(|| StoreError::Missing("such row".to_owned()))
    }

    fn for_sqlite(&self) -> Result<sqlx::query::Query<'static, Sqlite, SqliteArguments>, sqlx::Error> {
        let mut arguments = SqliteArguments::default();
        for argument in &self.arguments {
            match argument {
                Argument::Integer(value) => arguments.add(*value),
                Argument::Text(value) => arguments.add(value.as_deref()),
                Argument::Bytes(value) => arguments.add(&**value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(AssertSqlSafe(self.text.clone()), arguments))
    }

    pub(super) fn for_postgres(
        &self,
    ) -> Result<sqlx::query::Query<'static, Postgres, PgArguments>, sqlx::Error> {
        let mut arguments = PgArguments::default();
        for argument in &self.arguments {
            match argument {
                Argument::Integer(value) => arguments.add(*value),
                Argument::Text(value) => arguments.add(value.as_deref().map(escape).as_deref()),
                Argument::Bytes(value) => arguments.add(&**value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(AssertSqlSafe(self.text.clone()), arguments))
    }
}

fn of_sqlite<R: Record>(rows: Vec<SqliteRow>) -> Result<Vec<R>, StoreError> {
    rows.iter().map(|row| R::read(&Row::Sqlite(row))).collect()
}

fn of_postgres<R: Record>(rows: Vec<PgRow>) -> Result<Vec<R>, StoreError> {
    rows.iter().map(|row| R::read(&Row::Postgres(row))).collect()
}

/// A row of either database.
#[derive(Debug)]
pub(super) enum Row<'r> {
    Sqlite(&'r SqliteRow),
    Postgres(&'r PgRow),
}

impl Row<'_> {
    fn column<T: Column>(&self, index: usize) -> Result<T, StoreError> {
        match self {
            Row::Sqlite(row) => T::of_sqlite(row, index),
            Row::Postgres(row) => T::of_postgres(row, index),
        }
    }
}

/// What a column holds.
pub(super) trait Column: Sized {
    fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError>;
    fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError>;
}

impl Column for Option<i64> {
    fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError> {
        Ok(row.try_get(index)?)
    }

    fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError> {
        // Columns are of 64 bits; `SELECT 1`, `length` and `EXISTS` are not.
        if let Ok(value) = row.try_get::<Option<i64>, _>(index) {
            return Ok(value);
        }
        if let Ok(value) = row.try_get::<Option<i32>, _>(index) {
            return Ok(value.map(i64::from));
        }
        Ok(row.try_get::<Option<bool>, _>(index)?.map(i64::from))
    }
}

impl Column for Option<String> {
    fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError> {
        Ok(row.try_get(index)?)
    }

    fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError> {
        Ok(row.try_get::<Option<String>, _>(index)?.map(unescape))
    }
}

impl Column for Option<Vec<u8>> {
    fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError> {
        Ok(row.try_get(index)?)
    }

    fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError> {
        Ok(row.try_get(index)?)
    }
}

/// Columns that are not null.
macro_rules! never_null {
    ($($type:ty),*) => {$(
        impl Column for $type {
            fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError> {
                <Option<$type>>::of_sqlite(row, index)?.ok_or_else(|| null(index))
            }

            fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError> {
                <Option<$type>>::of_postgres(row, index)?.ok_or_else(|| null(index))
            }
        }
    )*};
}

never_null!(i64, String, Vec<u8>);

fn null(index: usize) -> StoreError {
    StoreError::corrupt(format!("column {index}"), "it is null")
}

impl Column for u32 {
    fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError> {
        small(i64::of_sqlite(row, index)?, index)
    }

    fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError> {
        small(i64::of_postgres(row, index)?, index)
    }
}

fn small(value: i64, index: usize) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|error| StoreError::corrupt(format!("column {index}"), error))
}

impl Column for bool {
    fn of_sqlite(row: &SqliteRow, index: usize) -> Result<Self, StoreError> {
        Ok(i64::of_sqlite(row, index)? != 0)
    }

    fn of_postgres(row: &PgRow, index: usize) -> Result<Self, StoreError> {
        Ok(i64::of_postgres(row, index)? != 0)
    }
}

/// What a row is read as: one column, or a tuple of them in their order.
pub(super) trait Record: Sized {
    fn read(row: &Row<'_>) -> Result<Self, StoreError>;
}

impl<T: Column> Record for T {
    fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        row.column(0)
    }
}

macro_rules! tuples {
    ($($first:ident $($name:ident)*;)*) => {$(
        impl<$first: Column, $($name: Column),*> Record for ($first, $($name,)*) {
            fn read(row: &Row<'_>) -> Result<Self, StoreError> {
                let mut index = 0..;
                let mut next = || index.next().unwrap_or_default();
                Ok((row.column::<$first>(next())?, $(row.column::<$name>(next())?,)*))
            }
        }
    )*};
}

tuples! {
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
    A B C D E F G H I;
    A B C D E F G H I J;
    A B C D E F G H I J K;
    A B C D E F G H I J K L;
    A B C D E F G H I J K L M;
    A B C D E F G H I J K L M N;
}

/// Introduces what stands for another character. JSON texts never hold it: they escape all control characters by themselves.
const ESCAPE: char = '\u{10}';

/// A text without the character NUL, from which `unescape` makes the same text again.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !holds_either(text.as_bytes(), 0, ESCAPE as u8) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => escaped.extend([ESCAPE, '0']),
            ESCAPE => escaped.extend([ESCAPE, ESCAPE]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

fn unescape(text: String) -> String {
    if !holds_either(text.as_bytes(), ESCAPE as u8, ESCAPE as u8) {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ESCAPE if characters.next() == Some('0') => plain.push('\0'),
            ESCAPE => plain.push(ESCAPE),
            other => plain.push(other),
        }
    }
    plain
}

/// Looks at all of it in blocks, which is quicker than to stop early: most texts hold neither.
fn holds_either(bytes: &[u8], one: u8, other: u8) -> bool {
    bytes
        .chunks(4096)
        .any(|block| block.iter().fold(false, |found, byte| found | (*byte == one) | (*byte == other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_as_it_was_and_none_is_sent_with_nul() {
        for text in ["", "plain", "\0", "a\0b", "\u{10}", "\u{10}0", "\u{10}\u{10}0\0", "0\u{10}\0\u{1F426}"]
        {
            let sent = escape(text).into_owned();
            assert!(!sent.contains('\0'));
            assert_eq!(unescape(sent), text);
        }
        assert!(matches!(escape("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_query_counts_its_parameters() {
        let mut query = Query::new("SELECT 1 WHERE a = ");
        query.push_bind(1_i64).push(" AND b IN (").push_list(["x", "y"]).push(")");
        assert_eq!(query.text, "SELECT 1 WHERE a = $1 AND b IN ($2, $3)");
        assert_eq!(query.arguments.len(), 3);
    }
}
