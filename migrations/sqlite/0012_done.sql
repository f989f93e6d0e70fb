-- When a deployment was done: it stays when what was done is taken back, and is NULL of one that stopped half way.
ALTER TABLE deployments ADD COLUMN done_at INTEGER;
UPDATE deployments SET done_at = finished_at WHERE status = 'done';
-- Whether those taken back before were done is not stored: it is taken from their hosts, once, as it was each time until now.
UPDATE deployments SET done_at = finished_at
WHERE status = 'restored' AND hosts LIKE '%"ok":true%' AND hosts NOT LIKE '%"ok":false%' AND hosts NOT LIKE '%"ok":null%';
