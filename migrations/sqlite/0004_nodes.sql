-- The servers that share this database. A file has one; a row goes when its server has stopped, or is taken for dead.

CREATE TABLE nodes (
    boot         TEXT PRIMARY KEY NOT NULL,
    place        TEXT NOT NULL,
    address      TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL
);

-- What one of them has to itself until a moment, by the database's clock.
CREATE TABLE leases (
    name       TEXT PRIMARY KEY NOT NULL,
    holder     TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);
