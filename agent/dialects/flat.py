"""Dialect ``flat``: one object with many signals and one time: ``{"at": …, "temperature": 21.4, "humidity": 61}``.

``at``, ``ts`` or ``timestamp`` is the time; every other member is a signal. What is no number is refused alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.dialects.values import Group, Refusal, loose

if TYPE_CHECKING:
    from collections.abc import Sequence

_DECODER = msgspec.json.Decoder(dict[str, Any])


def parse(payload: bytes, _signal: str) -> Sequence[Group] | Refusal:
    """Return the values of ``payload``, all of one time, or why there are none."""
    try:
        document = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = loose(payload)
        if isinstance(said, Refusal):
            return said
        if not isinstance(said, dict):
            return Refusal.WRONG_TYPE
        document = said
    at = None
    for name in ("timestamp", "ts", "at"):  # the last one found counts, so that "at" wins
        found = document.pop(name, None)
        at = at if found is None else found
    return (Group(at, document),) if document else Refusal.NO_VALUE
