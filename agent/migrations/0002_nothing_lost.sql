-- 0002: what it takes to lose nothing: births of Sparkplug nodes, times of amounts in buckets, clocks, and what is left of
-- readings that were never sealed and found no room.

-- The newest birth of each Sparkplug node and device: what they send later cannot be read without it.
CREATE TABLE births (topic TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;

-- When the newest reading of each bucket was, so that a restart forgets no amount; 0: not known, of version 1.
ALTER TABLE buckets ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;

-- By which clock the readings were received, so that they can be corrected when the right time is known: a row for each
-- start of the agent and each step of the clock, replaced while no reading came. The row of the largest first_seq up to
-- a reading's seq is the reading's: its time since boot is received_ms - offset_ms.
CREATE TABLE clocks (
    first_seq INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,         -- random name of the boot
    offset_ms INTEGER NOT NULL,    -- presumed time - time since boot
    trusted INTEGER NOT NULL,
    synchronised INTEGER,          -- NULL: the kernel did not tell
    began_ms INTEGER NOT NULL      -- presumed time
);
-- meta: presumed_ms and known_good_ms (the last time, and the last trusted one), clock_correction (JSON; see agent/store/times.py)

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
