"""Space that is kept for the day when the disk is full: given up, it lets the agent store on until somebody acts."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RESERVE_BYTES = (
    16_000_000  # a day of 20 houses x 60 signals a minute is 120 MB, so three hours; a small farm's two days
)
MARGIN_BYTES = 32_000_000  # beside it, before it is made again: else it would fill the disk itself


@dataclass(frozen=True, slots=True)
class Reserve:
    """The file ``reserve`` in the data directory: really allocated, never written."""

    folder: Path

    @property
    def _file(self) -> Path:
        return self.folder / "reserve"

    @property
    def is_held(self) -> bool:
        """Whether the space is there to be given up."""
        return self._file.exists()

    def hold(self) -> bool:
        """Make the reserve where there is none and the disk has room for it; tell whether there is one."""
        if self.is_held:
            return True
        making = self.folder / "reserve.part"
        with suppress(OSError):  # no room, or nothing can be written: then there is none
            if self.free_bytes() < RESERVE_BYTES + MARGIN_BYTES:
                return False
            with making.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
            making.replace(self._file)
            return True
        with suppress(OSError):
            making.unlink(missing_ok=True)
        return False

    def give_up(self) -> bool:
        """Free the space; tell whether there was any."""
        try:
            self._file.unlink()
        except OSError:
            return False
        return True

    def free_bytes(self) -> int:
        """Return the space that is free for us on this disk.

        Raises:
            OSError: the disk does not answer.
        """
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize
