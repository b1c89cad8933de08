"""An alarm of a baseline: from when until when which condition held."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    I64 = NDArray[np.int64]
    Bools = NDArray[np.bool_]

ONE_ALARM_MS = 3_600_000  # a condition that comes back within the hour is the same alarm: nobody counts chatter


class Alarm(NamedTuple):
    """An alarm about ``signal``."""

    rule: str
    signal: str
    at_ms: int
    until_ms: int


def risen(rule: str, signal: str, at_ms: I64, condition: Bools, *, apart_ms: int = ONE_ALARM_MS) -> list[Alarm]:
    """Return the alarms of a condition known at ``at_ms`` [n], those less than ``apart_ms`` apart joined."""
    which = at_ms[condition]
    if not len(which):
        return []
    step = int(np.diff(at_ms).min()) if len(at_ms) > 1 else apart_ms
    breaks = np.flatnonzero(np.diff(which) > max(apart_ms, step))
    begins = which[np.concatenate(([0], breaks + 1))]
    ends = which[np.concatenate((breaks, [len(which) - 1]))]
    return [Alarm(rule, signal, int(a), int(b)) for a, b in zip(begins, ends, strict=True)]
