-- 0002: what it takes to lose nothing: births of Sparkplug nodes, times of amounts in buckets, and what is left of
-- readings that were never sealed and found no room.

-- The newest birth of each Sparkplug node and device: what they send later cannot be read without it.
CREATE TABLE births (topic TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;

-- When the newest reading of each bucket was, so that a restart forgets no amount; 0: not known, of version 1.
ALTER TABLE buckets ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;

-- One row for each series, quarter of an hour and quality: see agent/rollup.py. There is no finer step here: at the usual
-- one reading a minute, a row for each minute would be larger than the reading itself.
CREATE TABLE readings_15min (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    series INTEGER NOT NULL REFERENCES series (id),
    at_ms INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    n INTEGER NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    sum REAL NOT NULL
);

-- More in meta: forgotten_before_ms (times of pruned readings before it are no longer known), waited_s and waited_seq (how
-- long, of running time, nothing was sealed, and from which number on), wear (JSON).
