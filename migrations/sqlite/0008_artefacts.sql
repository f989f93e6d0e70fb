-- Files that are kept by what is in them, and the runs that name them: without one, a file goes. Where there is no folder for the files, their bytes
-- are here, in pieces.

CREATE TABLE artefacts (
    hash      TEXT PRIMARY KEY NOT NULL,
    size      INTEGER NOT NULL,
    stored_at INTEGER NOT NULL
);
CREATE TABLE artefact_uses (
    hash TEXT NOT NULL,
    run  INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (hash, run)
);
CREATE INDEX artefact_uses_of_run ON artefact_uses (run);
CREATE TABLE artefact_chunks (
    hash     TEXT NOT NULL,
    position INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    bytes    BLOB NOT NULL,
    PRIMARY KEY (hash, position)
);
