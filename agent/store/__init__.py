"""The house's memory: the only SQL on ``house.db``. The agent writes by ``Store``, all others read by ``StoreReader``.

**Durable on return.** Every write is one transaction that is on the disk when the call returns (WAL,
``synchronous=FULL``), and what is kept in memory beside it changes only after the commit: whenever the process dies,
the file alone says what is known. So a message is acknowledged after ``append``, and published is what ``record`` took.

**Numbered rows.** Eight streams leave the house: readings, warnings, predictions, flocks, events (``LAKE_COLUMNS``),
``readings_15min``: what is left of readings that nobody sealed for a week, and what shadow bundles say.
Each numbers its rows from 1 without end (``seq``); a number is never used twice within a *generation*, the random name
of this database. The courier seals ranges of these numbers and keeps in its own ``sync.db`` how far it has come; we
read that (``sealed_watermarks``), and what it left for others (``sync_notes``). An older copy of the file that is put
back begins a new generation, or its next rows would be taken for those that were sealed under the same numbers.

**Once each.** A reading is known by (house, signal, at), and the first value wins. There is no index over it: that
would cost 1,200 to 2,500 bytes of disk for each reading. ``agent.seen`` tells what is new from the newest time of each
series, and looks the rest up by runs of rows for each minute; ``Index`` keeps those in the file. A message whose
readings have no time of their own is known by its digest, until it is acknowledged.

**Bounded.** Readings stay about two days, and no longer than they must: until they are sealed (``sync.db`` says so) and
observed (their sums are in ``buckets``). Where nobody seals, old ones leave rollups. Of what is pruned the times stay,
packed, so that a house computer that sends its past again adds nothing; after ``keep_days`` they go, too, and what is
older is rejected. Other streams leave when they are sealed and old. What was rejected and what commands answered is
kept by number.

**After a restart** ``restore`` gives back where every rule stands, the houses and their flocks, what the windows held,
and the readings that are stored but were not observed yet.

One agent writes: a lock file sees to it. Readers are other processes; in WAL mode they never hold it up.

| file | what is in it |
|---|---|
| ``writer`` | ``Store``: append, record, restore, prune |
| ``index``, ``prune``, ``restore`` | its three larger parts |
| ``times`` | by which clocks readings were received, and the correction of wrong times |
| ``reader`` | ``StoreReader``, ``sealed_watermarks`` |
| ``salvage``, ``quarantine`` | what a damaged file still holds; putting it aside, and a new one that takes over |
| ``keepsake`` | what survives even a database of which nothing can be read |
| ``reserve`` | space that is given up when the disk is full |
| ``unstored`` | what stands in while the disk takes nothing |
| ``tables`` | what lies in the databases, for people |
| ``care``, ``recover`` | a whole file: snapshot, vacuum, a new life; what a damaged one still holds |
| ``file`` | opening, locking, migrating, transactions, errors with their remedies |
| ``rows`` | columns of the lake, SQL texts, domain objects to rows and back |

The tables are in ``agent/migrations``.
"""

from agent.store.file import is_nearly_full, kept_free_bytes
from agent.store.prune import PRUNE_ROWS
from agent.store.quarantine import in_quarantine, sealed_in_lake
from agent.store.reader import StoreReader, sealed_watermarks, sync_notes
from agent.store.reserve import RESERVE_BYTES, Reserve
from agent.store.restore import Restored
from agent.store.rows import LAKE_COLUMNS, STREAMS, BucketRow
from agent.store.salvage import LostRows, Salvaged, readable_readings, readable_rows, salvage
from agent.store.times import Segment
from agent.store.unstored import Unstored
from agent.store.writer import KnownTime, Store, StoreCounters

__all__ = [
    "LAKE_COLUMNS",
    "PRUNE_ROWS",
    "RESERVE_BYTES",
    "STREAMS",
    "BucketRow",
    "KnownTime",
    "LostRows",
    "Reserve",
    "Restored",
    "Salvaged",
    "Segment",
    "Store",
    "StoreCounters",
    "StoreReader",
    "Unstored",
    "in_quarantine",
    "is_nearly_full",
    "kept_free_bytes",
    "readable_readings",
    "readable_rows",
    "salvage",
    "sealed_in_lake",
    "sealed_watermarks",
    "sync_notes",
]
