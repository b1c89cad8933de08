"""flockwatch's agent: sense, store, judge, warn; works for ever without a network."""
