-- How far each source that watches something has come. `subject` says what it watched: of something else it knows nothing yet.
CREATE TABLE cursors (
    source   TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    subject  TEXT COLLATE "C" NOT NULL,
    value    TEXT COLLATE "C" NOT NULL,
    version  BIGINT NOT NULL,
    moved_at BIGINT NOT NULL
);
