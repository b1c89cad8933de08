"""What must survive a house.db of which nothing can be read: our name, and what lives in the houses.

It changes a few times in a flock's life, so a file of its own costs nothing; without it no house would be judged until
somebody placed its flock again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from agent.domain import FlockChange

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "flocks.json"


class Keepsake(msgspec.Struct, frozen=True):
    """The gateway's name, and the newest change of each house."""

    gateway: str
    houses: tuple[FlockChange, ...] = ()


def read(folder: Path) -> Keepsake | None:
    """Return what was kept in a data directory; None where there is nothing that can be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Keepsake)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None


def keep(folder: Path, gateway: str, houses: Iterable[FlockChange]) -> None:
    """Keep it, durably: the old or the new is there, whatever happens.

    Raises:
        OSError: the disk does not take it.
    """
    part = folder / (FILE + ".part")
    with part.open("wb") as file:
        file.write(msgspec.json.encode(Keepsake(gateway, tuple(houses))))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / FILE)
