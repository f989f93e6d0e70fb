//! Several servers on one PostgreSQL database, and what becomes of their work when one of them, or the database, dies.

mod database;
mod nodes;
