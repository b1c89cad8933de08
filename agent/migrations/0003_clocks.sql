-- 0003: by which clock the readings were received, so that they can be corrected when the right time is known.

-- One row for each start of the agent and each step of the clock, replaced while no reading came: the row of the largest
-- first_seq up to a reading's seq is the reading's. Its time since boot is received_ms - offset_ms.
CREATE TABLE clocks (
    first_seq INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,         -- random name of the boot
    offset_ms INTEGER NOT NULL,    -- presumed time - time since boot
    trusted INTEGER NOT NULL,
    synchronised INTEGER,          -- NULL: the kernel did not tell
    began_ms INTEGER NOT NULL      -- presumed time
);
-- meta: presumed_ms and known_good_ms (the last time, and the last trusted one), clock_correction (JSON; see agent/store/times.py)
