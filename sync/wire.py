"""The shapes of what crosses the wire beside Parquet objects, versioned."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict


class StreamStatus(BaseModel):
    """How far one stream has come."""

    model_config = ConfigDict(frozen=True)

    sealed_seq: int
    sealed_at: AwareDatetime


class LakeStatus(BaseModel):
    """What the local lake holds, and what of it the cloud has not confirmed."""

    model_config = ConfigDict(frozen=True)

    objects: int
    bytes: int
    waiting_objects: int
    waiting_bytes: int
    set_aside_objects: int
    set_aside_rows: int


class GatewayStatus(BaseModel):
    """``status/<gateway>/latest.json``: that a gateway is alive, and how far it has come."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1  # of this shape
    gateway: str
    generation: str
    site: str
    at: AwareDatetime
    flockwatch: str  # the version of the program
    streams: dict[str, StreamStatus]
    lake: LakeStatus
