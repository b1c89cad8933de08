"""Dialect ``senml``: packs of Sensor Measurement Lists in JSON (RFC 8428): ``[{"bn": "house1/", "n": "co2", …}, …]``.

All of its data model: base fields and the resolution of records (4.1 to 4.6), sums, times relative to now (4.5.3),
versions, and labels that must be understood. Units become ours. Texts (``vs``) and data (``vd``) are no readings. The
other encodings of the RFC (CBOR, XML, EXI) are not read.

The name, base name included, says which signal it is: its last part after a ``/`` or ``:``, unless it is renamed. A sum
(``s``) has the name of its value with ``_sum`` behind it, and the unit of its value times seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agent.dialects.units import over_time
from agent.dialects.values import MOST_VALUES, Refusal, Refused, Sample, document_of, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config import Source
    from agent.dialects.values import Parse

VERSION = 10  # RFC 8428, 4.4
_VERSIONS = range(1, VERSION + 1)
RELATIVE_BELOW = 2**28  # seconds: smaller times are relative to now (4.5.3)
LONGEST_NAME = 255  # characters; the RFC sets no limit

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")  # 4.5.1
_BASE = frozenset({"bn", "bt", "bu", "bv", "bs", "bver"})
_VALUES = ("v", "vb", "vs", "vd")


@dataclass(slots=True)
class _Base:
    """The base fields as they stand: each holds for its record and for all that follow."""

    name: str = ""
    time: float = 0.0
    unit: str = ""
    value: float | None = None
    sum: float | None = None

    def update(self, record: dict[str, object]) -> Refused | None:
        """Take the base fields of a record, or say which one is wrong: then nothing that follows can be read."""
        for label, attribute in (("bn", "name"), ("bu", "unit")):
            if label in record:
                text = record[label]
                if not isinstance(text, str):
                    return Refused(Refusal.WRONG_TYPE, label)
                setattr(self, attribute, text)
        for label, attribute in (("bt", "time"), ("bv", "value"), ("bs", "sum")):
            if label in record:
                number = _number(record[label])
                if isinstance(number, Refusal):
                    return Refused(number, label)
                setattr(self, attribute, number)
        return None


class Packs:
    """The packs of one source."""

    def __init__(self, source: Source) -> None:
        """Take names of signals, and houses by the beginning of a name, from ``source``."""
        self._rename = source.rename
        self._houses = sorted(source.houses.items(), key=lambda entry: -len(entry[0]))  # the longest first

    def parser(self, _topic: str, fields: Mapping[str, str]) -> Parse:
        """Return how to read the payloads of one topic."""
        return partial(self._parse, fields.get("house", ""))

    def _parse(self, house: str, payload: bytes, _signal: str) -> Sequence[Sample | Refused] | Refusal:
        document = document_of(payload)
        if isinstance(document, Refusal):
            return document
        if not isinstance(document, list):
            return Refusal.WRONG_TYPE
        if len(document) > MOST_VALUES:
            return Refusal.TOO_MANY_VALUES
        taken: list[Sample | Refused] = []
        base = _Base()
        for record in document:
            if not isinstance(record, dict):
                taken.append(Refused(Refusal.WRONG_TYPE))
                continue
            version = record.get("bver", VERSION)
            # a whole number; as a float it comes from a pack that strict JSON refused for one bad value
            if isinstance(version, bool) or version not in _VERSIONS:
                return [Refused(Refusal.NOT_UNDERSTOOD, f"bver {version!r}")]  # of the whole pack
            wrong = base.update(record)
            unknown = [label for label in record if label.endswith("_")]
            if wrong is None and unknown:
                base_first = min(unknown, key=lambda label: not label.startswith("b"))
                wrong = Refused(Refusal.NOT_UNDERSTOOD, base_first)
            if wrong is not None:
                taken.append(wrong)
                if wrong.detail.startswith("b"):  # a base field: what follows stands on it
                    break
            elif not _BASE.issuperset(record):
                self._take(record, base, house, taken)
        return taken or Refusal.NO_VALUE

    def _take(self, record: dict[str, object], base: _Base, house: str, taken: list[Sample | Refused]) -> None:
        """Add what one record says: a value, a sum, or both."""
        own, at, unit = record.get("n", ""), _number(record.get("t", 0)), record.get("u", base.unit)
        if not isinstance(own, str) or not isinstance(unit, str):
            taken.append(Refused(Refusal.WRONG_TYPE, "u" if isinstance(own, str) else "n"))
            return
        name = base.name + own
        if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
            taken.append(Refused(Refusal.BAD_NAME, name))
            return
        if isinstance(at, Refusal):
            taken.append(Refused(Refusal.BAD_TIME, name))
            return
        time = base.time + at
        absolute, after_s = (None, time) if abs(time) < RELATIVE_BELOW else (time, 0.0)
        house = next((house_ for begin, house_ in self._houses if name.startswith(begin)), house)
        value, total = _value(record, base), _sum(record, base)
        if value is None and total is None:
            taken.append(Refused(Refusal.NO_VALUE, name))
        if value is not None:
            if isinstance(value, Refusal):
                taken.append(Refused(value, name))
            else:
                taken.append(Sample(self._signal_of(name), value, absolute, after_s, house, unit))
        if total is not None:
            summed = over_time(unit) if unit else ("", 1.0)
            if isinstance(total, Refusal) or summed is None:
                refusal = total if isinstance(total, Refusal) else Refusal.UNKNOWN_UNIT
                taken.append(Refused(refusal, f"{name}_sum"))
            else:
                signal = self._signal_of(f"{name}_sum")
                taken.append(Sample(signal, total * summed[1], absolute, after_s, house, summed[0]))

    def _signal_of(self, name: str) -> str:
        """Return our name for a resolved one: renamed as a whole, or by its last part."""
        last = re.split("[/:]", name)[-1]
        return self._rename.get(name) or self._rename.get(last, last)


def _number(value: object) -> float | Refusal:
    """Return a number, or why it is none: here true is not 1."""
    if value is None or isinstance(value, bool):
        return Refusal.WRONG_TYPE
    return number_of(value)


def _value(record: dict[str, object], base: _Base) -> float | Refusal | None:
    """Return a record's value on its base value, why it is no number, or None where it has none.

    A missing value counts as 0 where there is a base value (4.1), but not beside a sum, a text or data.
    """
    said = [label for label in _VALUES if label in record]
    if len(said) > 1:
        return Refusal.NOT_UNDERSTOOD
    if not said:
        return None if "s" in record else base.value
    if said == ["vb"]:
        return float(record["vb"]) if isinstance(record["vb"], bool) else Refusal.WRONG_TYPE
    number = _number(record["v"]) if said == ["v"] else Refusal.WRONG_TYPE
    return number if isinstance(number, Refusal) else number + (base.value or 0.0)


def _sum(record: dict[str, object], base: _Base) -> float | Refusal | None:
    """Return a record's sum on its base sum, why it is no number, or None where it has neither."""
    if "s" not in record:
        return base.sum
    number = _number(record["s"])
    return number if isinstance(number, Refusal) else number + (base.sum or 0.0)
