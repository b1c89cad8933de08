"""Dialect ``value``: one bare number, or ``{"value": …, "at" | "ts" | "timestamp": …}``; the topic names the signal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.dialects.values import Group, Refusal, loose

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Value(msgspec.Struct):
    value: float | bool | None
    at: Any = None  # any type: a time of the wrong one is then refused as such
    ts: Any = None
    timestamp: Any = None


_DECODER = msgspec.json.Decoder(float | bool | _Value | None)


def parse(payload: bytes, signal: str) -> Sequence[Group] | Refusal:
    """Return the one value of ``payload``, or why there is none."""
    document: object
    try:
        document = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = loose(payload)
    if isinstance(document, _Value):
        at = document.at if document.at is not None else document.ts if document.ts is not None else document.timestamp
        return (Group(at, {signal: document.value}),)
    if isinstance(document, dict):
        if "value" not in document:
            return Refusal.NO_VALUE
        times = (document.get(name) for name in ("at", "ts", "timestamp"))
        return (Group(next((at for at in times if at is not None), None), {signal: document["value"]}),)
    if isinstance(document, Refusal):
        return document
    return (Group(None, {signal: document}),)
