-- The first schema. Times are milliseconds since 1970; JSON is text; booleans are 0 and 1.
-- Ids that somebody may remember after the row has gone are AUTOINCREMENT, so that they are never given out twice.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

-- What happened. `routed_at` is null until rules were tried on it.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    trigger     TEXT NOT NULL,
    source      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    routed_at   INTEGER,
    replay_of   INTEGER,
    payload     TEXT NOT NULL
);
CREATE INDEX events_unrouted ON events (id) WHERE routed_at IS NULL;
CREATE INDEX events_of_trigger ON events (trigger, received_at);

-- Which event a source's dedup key stands for. A row counts for 7 days.
CREATE TABLE dedup (
    source      TEXT NOT NULL,
    key         TEXT NOT NULL,
    event       INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE INDEX dedup_age ON dedup (received_at);

-- What came of a rule that met an event.
CREATE TABLE matches (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    event    INTEGER NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    rule     TEXT NOT NULL,
    position INTEGER NOT NULL,
    revision TEXT NOT NULL,
    result   TEXT NOT NULL,
    run      INTEGER,
    why      TEXT,
    place    TEXT,
    at       INTEGER NOT NULL,
    UNIQUE (event, rule, position)
);
CREATE INDEX matches_of_rule ON matches (rule, id);
CREATE INDEX matches_of_run ON matches (run) WHERE run IS NOT NULL;

-- Runs. `state` is the whole record; the columns beside it are what lists and timers look at.
CREATE TABLE runs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    version     INTEGER NOT NULL,
    workflow    TEXT NOT NULL,
    revision    TEXT NOT NULL,
    status      TEXT NOT NULL,
    phase       TEXT NOT NULL,
    open        INTEGER NOT NULL,
    event       INTEGER,
    rule        TEXT,
    parent_run  INTEGER,
    parent_step TEXT,
    created_at  INTEGER NOT NULL,
    started_at  INTEGER,
    finished_at INTEGER,
    wake_at     INTEGER,
    state       TEXT NOT NULL
);
CREATE INDEX runs_open ON runs (id) WHERE open = 1;
CREATE INDEX runs_wake ON runs (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_top ON runs (id) WHERE parent_run IS NULL;
CREATE INDEX runs_of_parent ON runs (parent_run) WHERE parent_run IS NOT NULL;
CREATE INDEX runs_of_event ON runs (event) WHERE event IS NOT NULL;
CREATE INDEX runs_of_workflow ON runs (workflow, id);

-- What happened in a run, for people.
CREATE TABLE history (
    id      INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    at      INTEGER NOT NULL,
    step    TEXT,
    what    TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX history_of_run ON history (run, id);

-- Inputs that a run has not taken yet, in the order in which they came.
CREATE TABLE inbox (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    run   INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    input TEXT NOT NULL,
    at    INTEGER NOT NULL
);
CREATE INDEX inbox_of_run ON inbox (run, id);

-- Which steps listen to which trigger.
CREATE TABLE waits (
    run     INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step    TEXT NOT NULL,
    trigger TEXT NOT NULL,
    since   INTEGER NOT NULL,
    PRIMARY KEY (run, step, trigger)
) WITHOUT ROWID;
CREATE INDEX waits_for_trigger ON waits (trigger);

-- Attempts in flight; a row goes when its attempt has ended. `item` is -1 where there is none, since null equals nothing.
CREATE TABLE attempts (
    run           INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step          TEXT NOT NULL,
    visit         INTEGER NOT NULL,
    item          INTEGER NOT NULL,
    number        INTEGER NOT NULL,
    attempt       TEXT NOT NULL,
    boot          TEXT NOT NULL,
    state         TEXT NOT NULL,
    dispatched_at INTEGER NOT NULL,
    started_at    INTEGER,
    heartbeat_at  INTEGER NOT NULL,
    PRIMARY KEY (run, step, visit, item, number)
) WITHOUT ROWID;

-- Questions to people.
CREATE TABLE approvals (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    run      INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    status   TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    question TEXT NOT NULL,
    votes    TEXT NOT NULL
);
CREATE INDEX approvals_waiting ON approvals (id) WHERE status = 'waiting';
CREATE INDEX approvals_of_run ON approvals (run, id);

-- What attempts printed. Bytes, since programs print what they like.
CREATE TABLE log_chunks (
    id     INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step   TEXT NOT NULL,
    visit  INTEGER NOT NULL,
    item   INTEGER NOT NULL,
    number INTEGER NOT NULL,
    stream TEXT NOT NULL,
    at     INTEGER NOT NULL,
    bytes  BLOB NOT NULL
);
CREATE INDEX log_of_run ON log_chunks (run, id);

CREATE TABLE kv (
    key        TEXT PRIMARY KEY NOT NULL,
    value      TEXT NOT NULL,
    version    INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER
) WITHOUT ROWID;
CREATE INDEX kv_expiring ON kv (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE secrets (
    name       TEXT PRIMARY KEY NOT NULL,
    nonce      BLOB NOT NULL,
    ciphertext BLOB NOT NULL,
    updated_at INTEGER NOT NULL
);

-- Every act that changed something.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    act     TEXT NOT NULL,
    subject TEXT NOT NULL,
    details TEXT NOT NULL,
    address TEXT
);
CREATE INDEX audit_of_subject ON audit (subject, id);

-- Only the hash of a token is kept.
CREATE TABLE tokens (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    hash         TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    owner        TEXT NOT NULL,
    roles        TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at   INTEGER
);

CREATE TABLE deployments (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    unique_key  TEXT NOT NULL UNIQUE,
    app         TEXT NOT NULL,
    environment TEXT NOT NULL,
    version     TEXT NOT NULL,
    previous    TEXT,
    run         INTEGER,
    status      TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    hosts       TEXT NOT NULL
);
CREATE INDEX deployments_of_app ON deployments (app, environment, id);

-- Texts of definitions. Files that did not change between revisions are kept once.
CREATE TABLE blobs (
    hash  TEXT PRIMARY KEY NOT NULL,
    bytes BLOB NOT NULL
);
CREATE TABLE revisions (
    hash      TEXT PRIMARY KEY NOT NULL,
    loaded_at INTEGER NOT NULL,
    sequence  INTEGER NOT NULL UNIQUE
);
CREATE TABLE revision_files (
    revision TEXT NOT NULL REFERENCES revisions (hash) ON DELETE CASCADE,
    path     TEXT NOT NULL,
    blob     TEXT NOT NULL REFERENCES blobs (hash),
    PRIMARY KEY (revision, path)
) WITHOUT ROWID;

-- Rules that a person switched, whatever their files say.
CREATE TABLE rule_overrides (
    rule     TEXT PRIMARY KEY NOT NULL,
    disabled INTEGER NOT NULL,
    switched_by TEXT NOT NULL,
    why      TEXT,
    at       INTEGER NOT NULL
);
