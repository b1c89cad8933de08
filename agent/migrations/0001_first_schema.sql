-- 0001: readings, what is derived from them, what people said, and what was judged.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- gateway (random id), generation (of this house.db), seen_seq (series.high_ms and slots know the rows up to it),
-- observed_seq, judged_ms, health (JSON)

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    house TEXT NOT NULL,
    signal TEXT NOT NULL,
    high_ms INTEGER,               -- the newest `at` among rows up to meta.seen_seq
    rhythm_s REAL,                 -- its usual interval, seconds
    UNIQUE (house, signal)
);

-- No index over (series, at_ms): it costs 1,200 to 2,500 bytes of disk per reading; see agent/seen.py. And no
-- AUTOINCREMENT: the store numbers the rows itself, which halves the cost of a small commit.
CREATE TABLE readings (
    seq INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series (id),
    at_ms INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    value REAL NOT NULL,
    quality INTEGER NOT NULL,
    time_quality INTEGER NOT NULL
);

-- Which rows hold the readings of one minute of event time: runs of seq, so that a late reading can be looked up.
CREATE TABLE slots (slot INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, PRIMARY KEY (slot, first_seq)) WITHOUT ROWID;

-- The times of readings that were pruned after sealing, packed, for each series and period of 6 h of event time.
CREATE TABLE sealed_times (period INTEGER NOT NULL, series INTEGER NOT NULL, times BLOB NOT NULL, PRIMARY KEY (period, series)) WITHOUT ROWID;

-- Committed messages without a time of their own that the broker may send again (DUP): see Store.append.
CREATE TABLE unacknowledged (mid INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (mid, digest)) WITHOUT ROWID;

-- What the windows hold, step_s 600 (kept 14 days) or 86400 (a farm day, kept for the flock's life). Time comes first in
-- the key, so that the buckets of one instant share a few pages: by series, each would rewrite a page of its own.
CREATE TABLE buckets (
    step_s INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    house TEXT NOT NULL,
    signal TEXT NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (step_s, start_ms, house, signal)
) WITHOUT ROWID;

CREATE TABLE warnings (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    house TEXT NOT NULL,
    rule TEXT NOT NULL,
    document TEXT NOT NULL         -- JSON: every column of the lake's warnings stream between at and seq
);

CREATE TABLE warning_states (house TEXT NOT NULL, rule TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (house, rule)) WITHOUT ROWID;

CREATE TABLE predictions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,        -- made at
    house TEXT NOT NULL,
    flock TEXT,
    day_number INTEGER,
    target TEXT NOT NULL,
    target_at_ms INTEGER NOT NULL,
    horizon TEXT NOT NULL,
    p10 REAL NOT NULL,
    p50 REAL NOT NULL,
    p90 REAL NOT NULL,
    model TEXT NOT NULL,
    model_version TEXT NOT NULL,
    coverage REAL NOT NULL
);

CREATE TABLE flocks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    house TEXT NOT NULL,
    flock TEXT,
    action TEXT NOT NULL,
    state TEXT NOT NULL,
    document TEXT NOT NULL         -- JSON: {"flock": the flock as it then was or null, "detail": of the action}
);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    house TEXT,
    signal TEXT,
    from_ms INTEGER,
    to_ms INTEGER,
    detail TEXT NOT NULL           -- JSON
);

CREATE TABLE commands (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, answer TEXT NOT NULL);

CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    received_ms INTEGER NOT NULL,
    topic TEXT NOT NULL,
    reason TEXT NOT NULL,
    first_bytes BLOB NOT NULL
);
