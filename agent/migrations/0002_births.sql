-- 0002: the births of Sparkplug nodes and devices: what they send later cannot be read without them.

CREATE TABLE births (topic TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;
