-- What of a run is stored beside its state, and the places that `concurrency` gives.

-- Large values of a run: its input, outputs of its steps. The state has null in their place.
CREATE TABLE run_values (
    run   INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, name)
);

-- The items of steps with `for_each`, one row each.
CREATE TABLE items (
    run   INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step  TEXT NOT NULL,
    visit INTEGER NOT NULL,
    item  INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (run, step, visit, item)
) WITHOUT ROWID;

-- Of the rows of one name so many are held as `most` says; the others get theirs in the order of their ids.
CREATE TABLE slots (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT NOT NULL,
    run      INTEGER NOT NULL UNIQUE REFERENCES runs (id) ON DELETE CASCADE,
    held     INTEGER NOT NULL,
    most     INTEGER NOT NULL,
    asked_at INTEGER NOT NULL
);
CREATE INDEX slots_of_name ON slots (name, held, id);
