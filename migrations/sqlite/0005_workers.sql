-- Which worker has claimed an attempt; null while none has, and for the worker inside the server. With a worker, `boot` names the start of that
-- worker's process.
ALTER TABLE attempts ADD COLUMN worker TEXT;

CREATE INDEX attempts_claimed ON attempts (run, step, visit, item, number) WHERE worker IS NOT NULL;

-- Workers that are heard of over the broker, as they said last.
CREATE TABLE workers (
    id      TEXT PRIMARY KEY NOT NULL,
    seen_at INTEGER NOT NULL,
    record  TEXT NOT NULL
);
