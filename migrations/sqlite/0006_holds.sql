-- Stops that people set, by app or for all. Rules that are held are in rule_overrides.

CREATE TABLE holds (
    what    TEXT PRIMARY KEY NOT NULL,
    held_by TEXT NOT NULL,
    why     TEXT NOT NULL,
    since   INTEGER NOT NULL
);

-- Which hold an open run waits for, so that its end finds those who wait.
ALTER TABLE runs ADD COLUMN held_for TEXT;
CREATE INDEX runs_held ON runs (id) WHERE held_for IS NOT NULL;
