-- When a deployment was taken back: its `finished_at` stays what it was.
ALTER TABLE deployments ADD COLUMN restored_at BIGINT;
