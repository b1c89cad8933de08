-- 0002: what it takes to lose nothing: births of Sparkplug nodes, and the times of amounts in buckets.

-- The newest birth of each Sparkplug node and device: what they send later cannot be read without it.
CREATE TABLE births (topic TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;

-- When the newest reading of each bucket was, so that a restart forgets no amount; 0: not known, of version 1.
ALTER TABLE buckets ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;
