-- The servers that share this database. A file has one; a row goes when its server has stopped, or is taken for dead.

CREATE TABLE nodes (
    boot         TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    place        TEXT COLLATE "C" NOT NULL,
    address      TEXT NOT NULL,
    started_at   BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL
);

-- What one of them has to itself until a moment, by the database's clock.
CREATE TABLE leases (
    name       TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    holder     TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL
);
