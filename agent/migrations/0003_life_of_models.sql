-- 0003: how models fare after they were deployed: how they fit each house, and what shadow bundles say.

-- What was counted of a model (name/version) in a house on a farm day, and of each flock: see agent/fitness.py.
CREATE TABLE fitness_days (
    start_ms INTEGER NOT NULL,     -- of the farm day
    house TEXT NOT NULL,
    model TEXT NOT NULL,
    document TEXT NOT NULL,        -- JSON: a FitDay
    PRIMARY KEY (start_ms, house, model)
) WITHOUT ROWID;
CREATE TABLE fitness_flocks (
    house TEXT NOT NULL,
    model TEXT NOT NULL,
    flock TEXT NOT NULL,
    updated_ms INTEGER NOT NULL,
    document TEXT NOT NULL,        -- JSON: a FitFlock
    PRIMARY KEY (house, model, flock)
) WITHOUT ROWID;

-- What shadow bundles would have said: the same columns as of warnings, warning_states and predictions, and never shown.
CREATE TABLE shadow_warnings (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    house TEXT NOT NULL,
    rule TEXT NOT NULL,
    document TEXT NOT NULL
);
CREATE TABLE shadow_states (house TEXT NOT NULL, rule TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (house, rule)) WITHOUT ROWID;
CREATE TABLE shadow_predictions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
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
