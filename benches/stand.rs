//! The stores that servers are started on, each time a fresh one.

use std::path::Path;

use crate::limits::Place;
use crate::support::postgres;
use crate::support::server::Server;

/// What a measurement's servers keep everything in.
pub(crate) enum Stand {
    Sqlite,
    Postgres(postgres::Private),
}

impl Stand {
    /// PostgreSQL as it comes, with every commit synced.
    pub(crate) fn postgres() -> Stand {
        Stand::Postgres(postgres::Private::start_durable())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Stand::Sqlite => "SQLite",
            Stand::Postgres(_) => "PostgreSQL",
        }
    }

    pub(crate) fn index(&self) -> usize {
        match self {
            Stand::Sqlite => 0,
            Stand::Postgres(_) => 1,
        }
    }

    /// A fresh place for a table of rows; a file lies in `folder`.
    pub(crate) fn place(&self, folder: &Path) -> Place {
        match self {
            Stand::Sqlite => Place::File(folder.join("rows.db")),
            Stand::Postgres(server) => Place::Database(server.new_database()),
        }
    }

    /// A server on a fresh database.
    pub(crate) fn serve(&self, files: &[(&str, &str)]) -> Server {
        match self {
            Stand::Sqlite => Server::start_with(files, &[]),
            Stand::Postgres(server) => {
                Server::start_with(files, &["--database".to_owned(), server.new_database()])
            }
        }
    }

    /// Whether the programs of PostgreSQL are on this machine.
    pub(crate) fn has_postgres() -> bool {
        let known = ["/usr/lib/postgresql", "/usr/local/bin/postgres", "/usr/bin/postgres"];
        known.iter().any(|path| Path::new(path).exists())
    }
}
