//! What people have who write definitions: schemas for their editors, packs of others, and a look at what a change would do.

mod packs;
mod plan;
mod schema;
