-- Runs that follow from others: what ran again, and what was rolled back. Older programs leave both empty.

ALTER TABLE runs ADD COLUMN rerun_of BIGINT;
ALTER TABLE runs ADD COLUMN rollback_of BIGINT;
CREATE INDEX runs_rerun_of ON runs (rerun_of) WHERE rerun_of IS NOT NULL;
CREATE INDEX runs_rollback_of ON runs (rollback_of) WHERE rollback_of IS NOT NULL;
