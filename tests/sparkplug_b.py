"""Sparkplug B payloads written byte by byte, so that the tests do not read with the same tables that they write with.

Field numbers: Sparkplug 3.0, 6.4.1 (payload) and 6.4.5 (metric). Wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from typing import TypedDict, Unpack

INT8, INT16, INT32, INT64, UINT8, UINT64 = 1, 2, 3, 4, 5, 8
FLOAT, DOUBLE, BOOLEAN, STRING, DATE_TIME = 9, 10, 11, 12, 13


class Metric(TypedDict, total=False):
    """What a metric may hold."""

    name: str | bytes
    alias: int
    timestamp: int
    datatype: int
    is_historical: bool
    is_null: bool
    int_value: int
    long_value: int
    float_value: float
    double_value: float
    boolean_value: bool
    string_value: str
    bytes_value: bytes
    dataset_value: bytes
    template_value: bytes


_NUMBERS = {
    "name": 1,
    "alias": 2,
    "timestamp": 3,
    "datatype": 4,
    "is_historical": 5,
    "is_null": 7,
    "int_value": 10,
    "long_value": 11,
    "float_value": 12,
    "double_value": 13,
    "boolean_value": 14,
    "string_value": 15,
    "bytes_value": 16,
    "dataset_value": 17,
    "template_value": 18,
}


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte."""
    wire = bytearray()
    while number > 127:
        wire.append(number & 127 | 128)
        number >>= 7
    wire.append(number)
    return bytes(wire)


def with_length(number: int, content: bytes) -> bytes:
    """Return a field of bytes, text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def metric(**fields: Unpack[Metric]) -> bytes:
    """Return one metric."""
    wire = b""
    for name, value in fields.items():
        number = _NUMBERS[name]
        if isinstance(value, (str, bytes)):
            wire += with_length(number, value.encode() if isinstance(value, str) else value)
        elif name == "double_value":
            wire += varint(number << 3 | 1) + struct.pack("<d", value)
        elif name == "float_value":
            wire += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            assert isinstance(value, int)
            wire += varint(number << 3) + varint(value)
    return wire


def payload(*metrics: bytes, seq: int | None = None, timestamp: int | None = None) -> bytes:
    """Return a payload of metrics."""
    wire = b"" if timestamp is None else varint(1 << 3) + varint(timestamp)
    wire += b"".join(with_length(2, one) for one in metrics)
    return wire + (b"" if seq is None else varint(3 << 3) + varint(seq))
