-- 0002: when the newest reading of each bucket was, so that a restart forgets no amount.

ALTER TABLE buckets ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0; -- 0: not known, of an older version
