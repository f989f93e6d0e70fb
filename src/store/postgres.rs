//! PostgreSQL: how it is reached, what a connection is told, and what is done when it goes away. See docs/adr/0008-postgresql.md.
//!
//! Promises: one group of writes commits at a time among all nodes; a node that dies or hangs gives its turn back within seconds;
//! nothing waits for minutes for a database that does not answer; the password is in no message.

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use super::StoreError;
use super::connection::STATEMENTS;
use super::standing::Standing;
use super::statement::Sql;

/// Connections that read, per node.
const READERS: u32 = 8;
/// How long to try to connect, once.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a read waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long any answer of the server is waited for: longer than it takes to say by itself that it took too long.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The first half of the key of the lock under which groups commit; the other half stands for the schema.
const LOCK: i32 = 0x5349_534B;

/// How the channel of words begins; the schema's number follows.
const CHANNEL: &str = "siskin_";

/// What each connection is told. A transaction that its node leaves idle is ended by the server, and a node that has gone is noticed, so that
/// its turn to write goes to the others within seconds. What was answered must be on disk, so commits that do not wait for it are not accepted.
const SETTINGS: &str = "SET idle_in_transaction_session_timeout = '5s';
SET lock_timeout = '10s';
SET statement_timeout = '15s';
SET client_connection_check_interval = '2s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 10000;
SET client_min_messages = warning;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Where a PostgreSQL database is, and how to get in. `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct DatabaseUrl {
    options: Box<PgConnectOptions>,
}

impl FromStr for DatabaseUrl {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<DatabaseUrl, StoreError> {
        let refuse = |why: String| StoreError::Unreachable {
            database: "the database".to_owned(),
            why,
            advice: "write postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned(),
        };
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(refuse("its address is no postgres:// URL".to_owned()));
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| match error {
            sqlx::Error::Configuration(why) => refuse(format!("its address is not understood ({why})")),
            _ => refuse("its address is not understood".to_owned()),
        })?;
        let options = options.application_name("siskin").statement_cache_capacity(STATEMENTS);
        Ok(DatabaseUrl { options: Box::new(options.disable_statement_logging()) })
    }
}

impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (user, port) = (self.options.get_username(), self.options.get_port());
        match self.options.get_socket() {
            Some(socket) => write!(f, "{} (as {user})", socket.display())?,
            None => write!(f, "postgres://{user}@{}:{port}", self.options.get_host())?,
        }
        write!(f, "/{}", self.database())
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl DatabaseUrl {
    fn database(&self) -> &str {
        self.options.get_database().unwrap_or(self.options.get_username())
    }

    /// Why it can't be used, and what to do.
    fn refuse(&self, error: &sqlx::Error) -> StoreError {
        let user = self.options.get_username();
        let code = code_of(error);
        let (why, advice) = match code.as_deref() {
            Some("28P01" | "28000") => (
                format!("it refuses the user {user} ({})", message_of(error)),
                "check user and password, in the URL, in PGPASSWORD or in ~/.pgpass, and the server's pg_hba.conf".to_owned(),
            ),
            Some("42704") => (message_of(error), "it must be PostgreSQL 14 or newer".to_owned()),
            Some("3D000") => (
                format!("there is no database `{}`", self.database()),
                format!("make it: createdb --owner {user} --encoding UTF8 {}", self.database()),
            ),
            _ => (message_of(error), "start it, or correct the address".to_owned()),
        };
        StoreError::Unreachable { database: self.to_string(), why, advice }
    }

    /// What opening it came to, where it says that something is not allowed.
    pub(super) fn refused(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Sql(why)
                if why.contains("permission denied") || why.contains("no schema has been") =>
            {
                StoreError::Unreachable {
                    database: self.to_string(),
                    why,
                    advice: format!(
                        "let {} make tables there: GRANT CREATE ON SCHEMA public TO {0}",
                        self.options.get_username()
                    ),
                }
            }
            other => other,
        }
    }

    /// Connects within `patience`: as long as nobody answers there, or the server only starts or is full, it tries again.
    pub(super) async fn connect_patiently(&self, patience: Duration) -> Result<Postgres, StoreError> {
        let end = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            let error = match self.try_connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if !may_pass(&error) || Instant::now() + pause > end {
                return Err(self.refuse(&error));
            }
            if !told {
                tracing::warn!("waiting for the database {self}: {}", message_of(&error));
                told = true;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_connect(&self) -> Result<Postgres, sqlx::Error> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
            Postgres::of(connection).await
        };
        timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(timed_out("connecting took too long")))
    }

    /// The pool that reads. It connects when it is first asked.
    pub(super) fn readers(&self, standing: Arc<Standing>) -> PostgresReaders {
        let pool = PgPoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .acquire_timeout(ACQUIRE)
            .test_before_acquire(false)
            .idle_timeout(Duration::from_secs(600))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(SETTINGS).execute(&mut *connection).await?;
                    sqlx::raw_sql("SET default_transaction_read_only = on").execute(connection).await?;
                    Ok(())
                })
            })
            .connect_lazy_with((*self.options).clone());
        PostgresReaders { pool, standing, url: self.clone() }
    }
}

/// A connection to PostgreSQL.
#[derive(Debug)]
pub(super) struct Postgres {
    connection: PgConnection,
    begin: String,
    /// Changes when another server takes over from the one that was written to.
    timeline: String,
    /// The transaction that `begin` began.
    transaction: String,
}

impl Deref for Postgres {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Postgres {
    async fn of(mut connection: PgConnection) -> Result<Postgres, sqlx::Error> {
        let row = sqlx::query(
            "SELECT coalesce(hashtext(current_schema()), 0), current_setting('server_encoding'),
                    CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END",
        )
        .fetch_one(&mut connection)
        .await?;
        let (schema, encoding): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
        if encoding != "UTF8" {
            return Err(sqlx::Error::Protocol(format!("its encoding is {encoding}, but must be UTF8")));
        }
        let Some(timeline) = row.try_get::<Option<String>, _>(2)? else {
            return Err(sqlx::Error::Protocol("it is a standby that takes no writes".to_owned()));
        };
        // Each statement sees what was committed before it, so also all that the holder of the lock before this one wrote.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
             SELECT pg_advisory_xact_lock({LOCK}, {schema});
             SAVEPOINT one;
             SELECT CAST(pg_current_xact_id() AS text)"
        );
        Ok(Postgres { connection, begin, timeline, transaction: String::new() })
    }

    /// Begins a transaction when it is this node's turn.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        self.transaction.clear();
        let rows: Vec<PgRow> =
            sqlx::raw_sql(AssertSqlSafe(self.begin.clone())).fetch_all(&mut self.connection).await?;
        if let Some(row) = rows.last() {
            self.transaction = row.try_get(0)?;
        }
        Ok(())
    }

    /// The transaction that is open, by which `was_committed` knows it.
    pub(super) fn transaction(&self) -> Transaction {
        Transaction { number: self.transaction.clone(), timeline: self.timeline.clone() }
    }

    /// Whether a transaction whose end nobody heard of was committed; `None` when that can't be known any more.
    pub(super) async fn was_committed(&mut self, lost: &Transaction) -> Result<Option<bool>, StoreError> {
        if lost.timeline != self.timeline || lost.number.is_empty() {
            return Ok(None);
        }
        // The lock is free only when the lost transaction has ended.
        self.begin().await?;
        let status: Result<Option<String>, sqlx::Error> =
            sqlx::query_scalar("SELECT pg_xact_status(CAST(CAST($1 AS text) AS xid8))")
                .bind(&lost.number)
                .fetch_one(&mut self.connection)
                .await;
        sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await?;
        Ok(match status?.as_deref() {
            Some("committed") => Some(true),
            Some("aborted") => Some(false),
            _ => None,
        })
    }

    pub(super) async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}

/// Names a transaction for as long as the server remembers it.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    number: String,
    timeline: String,
}

/// The pool that reads. While the database is known to be away, it says so at once.
#[derive(Clone, Debug)]
pub(super) struct PostgresReaders {
    pool: PgPool,
    standing: Arc<Standing>,
    url: DatabaseUrl,
}

impl PostgresReaders {
    /// Reads. A connection that had been lost while nobody used it is noticed only now, so then it is tried on another: nothing happened.
    pub(super) async fn fetch_all(&self, statement: &Sql<'_>) -> Result<Vec<PgRow>, StoreError> {
        let mut tries = 0;
        loop {
            self.refuse_while_away()?;
            let read = timeout(PATIENCE, statement.for_postgres()?.fetch_all(&self.pool)).await;
            match read.unwrap_or_else(|_| Err(timed_out("no answer to a question"))) {
                Err(error) if is_lost(&error) && tries < READERS => tries += 1,
                other => return Ok(other?),
            }
        }
    }

    fn refuse_while_away(&self) -> Result<(), StoreError> {
        self.standing.away().map_or(Ok(()), |why| Err(StoreError::Away(why)))
    }

    /// Sends a word to all who share the schema.
    pub(super) async fn tell(&self, text: &str) -> Result<(), StoreError> {
        self.refuse_while_away()?;
        let telling = sqlx::query("SELECT pg_notify($1 || to_hex(hashtext(current_schema())), $2)")
            .bind(CHANNEL)
            .bind(text)
            .execute(&self.pool);
        let told = timeout(PATIENCE, telling).await;
        told.unwrap_or_else(|_| Err(timed_out("no answer to a word")))?;
        Ok(())
    }

    /// Hears such words, on a connection of its own.
    pub(super) async fn listen(&self) -> Result<PgListener, StoreError> {
        self.refuse_while_away()?;
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE);
        let listening = async {
            let pool = pool
                .after_connect(|connection, _| {
                    Box::pin(async move { sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop) })
                })
                .connect_with((*self.url.options).clone())
                .await?;
            let channel: String = sqlx::query_scalar("SELECT $1 || to_hex(hashtext(current_schema()))")
                .bind(CHANNEL)
                .fetch_one(&pool)
                .await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.eager_reconnect(false);
            listener.listen(&channel).await?;
            Ok(listener)
        };
        let listener = timeout(PATIENCE, listening).await;
        Ok(listener.unwrap_or_else(|_: Elapsed| Err(timed_out("listening took too long")))?)
    }

    pub(super) async fn close(&self) {
        // A connection that no longer answers does not keep anybody.
        timeout(CONNECT, self.pool.close()).await.ok();
    }
}

/// Connects again and again, with pauses that grow.
pub(super) async fn reconnect(url: DatabaseUrl, standing: Arc<Standing>) -> Postgres {
    let mut pause = FIRST_PAUSE;
    loop {
        match url.try_connect().await {
            Ok(connection) => return connection,
            Err(error) => {
                let why = format!("{url}: {}", message_of(&error));
                if standing.went_away(&why) {
                    tracing::error!("the database is away ({why}); trying again until it is back");
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn timed_out(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

/// The connection broke, or the server closes it.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        sqlx::Error::Database(_) => {
            matches!(code_of(error).as_deref(), Some("57P01" | "57P02" | "57P03" | "25P03"))
        }
        _ => false,
    }
}

/// It may be otherwise in a moment, without anybody correcting anything here.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(_) => {
            code_of(error).is_some_and(|code| code.starts_with("57") || code.starts_with("53"))
        }
        _ => false,
    }
}

fn code_of(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

/// One line. What sqlx says of a server's answer has a prefix that helps nobody.
fn message_of(error: &sqlx::Error) -> String {
    let message = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Protocol(why) => why.clone(),
        other => other.to_string(),
    };
    message.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::postgres::{Private, new_schema, psql};
    use crate::store::testing::{NOW, audit, event, stored_run};
    use crate::store::{Advance, Location, Store, migrations};

    async fn open(url: &str, patience: Duration) -> Result<Store, StoreError> {
        Store::open_with(&Location::url(url)?, migrations::ALL, patience, NOW).await
    }

    async fn refusal(url: &str) -> String {
        let error = open(url, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        error.to_string()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_used_is_refused_with_what_to_do_and_without_the_password() {
        for url in ["mysql://x", "postgres://a:hidden@[", "/var/lib/siskin.db", ""] {
            let told = refusal(url).await;
            assert!(told.contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE") && !told.contains("hidden"));
        }
        let told = refusal("postgres://siskin:hidden@127.0.0.1:1/x").await;
        assert!(
            told.contains("127.0.0.1:1/x") && told.contains("start it") && !told.contains("hidden"),
            "{told}"
        );

        let server = Private::start();
        let to =
            |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port());
        let missing = to("siskin:hidden", "nothing");
        let told = refusal(&missing).await;
        assert!(told.contains("createdb --owner siskin --encoding UTF8 nothing"), "{told}");
        server.ask("CREATE ROLE ana LOGIN PASSWORD 'right'");
        server.demand_password("ana");
        let wrong = to("ana:hidden", "siskin");
        let told = refusal(&wrong).await;
        assert!(told.contains("refuses the user ana") && !told.contains("hidden"), "{told}");
        let told = refusal(&wrong.replace("hidden", "right")).await;
        assert!(told.contains("GRANT CREATE ON SCHEMA public TO ana"), "{told}");
        server.ask("GRANT CREATE ON SCHEMA public TO ana");
        open(&wrong.replace("hidden", "right"), Duration::ZERO).await.unwrap().close().await;
        let url: DatabaseUrl = wrong.parse().unwrap();
        assert!(!format!("{url:?} {url}").contains("hidden"));
        server.ask("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
        let told = refusal(&to("siskin", "narrow")).await;
        assert!(told.contains("must be UTF8"), "{told}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn while_the_database_is_away_writes_fail_at_once_and_then_go_on_by_themselves() {
        let mut server = Private::start();
        let store = open(&server.url(), Duration::ZERO).await.unwrap();
        store.add_events(vec![event("a.b", Some("one"))], NOW).await.unwrap();
        store.meta("k").await.unwrap();
        server.kill();
        let lost = store.add_events(vec![event("a.b", Some("two"))], NOW).await;
        assert!(matches!(lost, Err(StoreError::Away(_))), "{lost:?}");
        let before = Instant::now();
        for _ in 0..50 {
            let refused = store.add_events(vec![event("a.b", Some("two"))], NOW).await;
            assert!(matches!(refused, Err(StoreError::Away(_))), "{refused:?}");
        }
        assert!(before.elapsed() < PATIENCE / 2, "{:?}", before.elapsed());
        while store.away().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(store.meta("k").await, Err(StoreError::Away(_))));

        server.run();
        while store.away().is_some() {
            tokio::task::yield_now().await;
        }
        let one = store.add_events(vec![event("a.b", Some("one"))], NOW).await.unwrap()[0];
        let two = store.add_events(vec![event("a.b", Some("two"))], NOW).await.unwrap()[0];
        assert!(one.known && !two.known);
        assert_eq!(store.count("SELECT count(*) FROM events").await, 2);
        // Connections that nobody used meanwhile are no longer good, and nobody notices.
        server.kill();
        server.run();
        assert_eq!(store.count("SELECT count(*) FROM events").await, 2);
        store.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_whose_answer_was_lost_is_known_afterwards() {
        let url: DatabaseUrl = new_schema().parse().unwrap();
        let mut first = url.try_connect().await.unwrap();
        let mut second = url.try_connect().await.unwrap();
        first.begin().await.unwrap();
        let committed = first.transaction();
        sqlx::raw_sql("COMMIT").execute(&mut *first).await.unwrap();
        first.begin().await.unwrap();
        let lost = first.transaction();
        drop(first);
        assert_eq!(second.was_committed(&committed).await.unwrap(), Some(true));
        assert_eq!(second.was_committed(&lost).await.unwrap(), Some(false));
        let elsewhere = Transaction { timeline: "00000099".to_owned(), ..committed };
        assert_eq!(second.was_committed(&elsewhere).await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_writer_that_hangs_in_a_transaction_gives_its_turn_back() {
        let url = new_schema();
        let hanging: DatabaseUrl = url.parse().unwrap();
        let store = open(&url, Duration::ZERO).await.unwrap();
        let mut hanging = hanging.try_connect().await.unwrap();
        hanging.begin().await.unwrap();
        let before = Instant::now();
        store.set_meta("a", "b").await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(9), "{:?}", before.elapsed());
        assert!(hanging.begin().await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_servers_that_advance_a_run_one_wins_and_both_see_it() {
        let url = new_schema();
        let stores = [open(&url, Duration::ZERO).await.unwrap(), open(&url, Duration::ZERO).await.unwrap()];
        let run = stored_run(&stores[0]).await;
        let saves = (0..16).map(|number| {
            let mut advance = Advance::of(run.clone(), NOW);
            advance.audit = Some(audit("run.advance"));
            stores[number % 2].save_run(advance)
        });
        let saved = futures::future::join_all(saves).await;
        assert_eq!(saved.iter().filter(|saved| saved.is_ok()).count(), 1);
        for store in &stores {
            assert_eq!(store.run(run.id).await.unwrap().unwrap().version, run.version + 1);
            assert_eq!(store.count("SELECT count(*) FROM audit").await, 1);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn siskins_in_different_schemas_of_a_database_do_not_meet() {
        let (one, other) = (new_schema(), new_schema());
        let mut holder = one.parse::<DatabaseUrl>().unwrap().try_connect().await.unwrap();
        let store = open(&other, Duration::ZERO).await.unwrap();
        holder.begin().await.unwrap();
        let before = Instant::now();
        store.set_meta("a", "b").await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_waits_for_the_disk_also_where_the_server_would_not() {
        let server = Private::start();
        server.ask("ALTER DATABASE siskin SET synchronous_commit = off");
        let mut connection = server.url().parse::<DatabaseUrl>().unwrap().try_connect().await.unwrap();
        let set: String =
            sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(set, "on");
        assert_eq!(psql(server.port(), "siskin", "SHOW synchronous_commit"), "off");
    }
}
