-- Locks that steps of runs have or wait for: of the rows of one name, one is held, and the others get it in the order of their ids.

CREATE TABLE locks (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT NOT NULL,
    run      INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step     TEXT NOT NULL,
    held     INTEGER NOT NULL,
    asked_at INTEGER NOT NULL,
    UNIQUE (run, step)
);
CREATE INDEX locks_of_name ON locks (name, id);
