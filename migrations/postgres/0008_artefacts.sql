-- Files that are kept by what is in them, and the runs that name them: without one, a file goes. Where there is no folder for the files, their bytes
-- are here, in pieces.

CREATE TABLE artefacts (
    hash      TEXT PRIMARY KEY NOT NULL,
    size      BIGINT NOT NULL,
    stored_at BIGINT NOT NULL
);
CREATE TABLE artefact_uses (
    hash TEXT NOT NULL,
    run  BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (hash, run)
);
CREATE INDEX artefact_uses_of_run ON artefact_uses (run);
CREATE TABLE artefact_chunks (
    hash     TEXT NOT NULL,
    position BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    bytes    BYTEA NOT NULL,
    PRIMARY KEY (hash, position)
);
