-- How far each source that watches something has come. `subject` says what it watched: of something else it knows nothing yet.
CREATE TABLE cursors (
    source   TEXT PRIMARY KEY NOT NULL,
    subject  TEXT NOT NULL,
    value    TEXT NOT NULL,
    version  INTEGER NOT NULL,
    moved_at INTEGER NOT NULL
) WITHOUT ROWID;
