"""The box of letters: who is to be told what, and who was. The only SQL on post.db.

A change of a warning is taken once: what is to be told of it and how far the stream was read are one transaction. Which
changes make up a letter is written before it is sent, so that after a crash the same letter goes again under the same
id, and a recipient can see that he has it already. Where the file is broken a new one is begun, and reads on from the
changes of the last day.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from agent.errors import StoreDamaged
from agent.store.file import named_errors, transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

IN_A_LETTER = 50  # changes; the rest comes with the next one
WAITING = 1_000  # changes that wait for one recipient; beyond that the oldest that are not critical are let go
KEPT_MS = 30 * 86_400_000  # of what was told

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE notices (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient TEXT NOT NULL,
    warning TEXT NOT NULL,         -- its id
    at_ms INTEGER NOT NULL,        -- of the change
    due_ms INTEGER NOT NULL,
    critical INTEGER NOT NULL,
    reason TEXT NOT NULL,          -- of the decision: at_once, quiet_hours, critical
    document TEXT NOT NULL,        -- JSON: the row of the stream warnings
    letter INTEGER,                -- the letter that it goes in
    done_ms INTEGER,               -- it was sent, or is not to be
    refused TEXT,                  -- why it was not
    UNIQUE (recipient, warning, at_ms)
);
CREATE INDEX notices_waiting ON notices (recipient, due_ms) WHERE done_ms IS NULL;
PRAGMA user_version = 1;
"""


@dataclass(frozen=True, slots=True)
class Notice:
    """One change that one recipient is to be told of."""

    recipient: str
    row: Mapping[str, Any]
    due_ms: int
    is_critical: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """The changes of one letter."""

    number: int
    recipient: str
    due_ms: int  # of the oldest
    is_critical: bool
    rows: tuple[Mapping[str, Any], ...]


class Postbox:
    """The one writer of post.db; a context manager."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path, self._db = path, db
        self._resources = ExitStack()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or make the box at ``path``; one that is broken gives way to a new one, as ``post.db.damaged``.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            return cls._opened(path)
        except StoreDamaged:
            path.replace(path.with_name(path.name + ".damaged"))
            path.with_name(path.name + "-journal").unlink(missing_ok=True)
            return cls._opened(path)

    @classmethod
    def _opened(cls, path: Path) -> Self:
        with ExitStack() as stack, named_errors(path, "open"):
            path.touch(mode=0o660)
            db = stack.enter_context(closing(sqlite3.connect(path, timeout=10, isolation_level=None)))
            db.execute("PRAGMA synchronous = FULL")
            if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                message = f"{path}: its content is broken"
                raise StoreDamaged(message)
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                db.executescript(_SCHEMA)
            box = cls(path, db)
            box._resources = stack.pop_all()
            return box

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    # --- what comes in

    def position(self, generation: str) -> int:
        """Return up to which row the stream ``warnings`` of a house.db was taken, 0 for one that is new to us."""
        return int(self.noted(f"position {generation}") or 0)

    def take(self, generation: str, seq: int, notices: Sequence[Notice]) -> None:
        """Take up what is to be told of the rows up to ``seq``, in one transaction.

        Raises:
            StoreError: nothing of it was stored.
        """
        rows = [
            (n.recipient, n.row["id"], n.row["at"], n.due_ms, n.is_critical, n.reason, json.dumps(dict(n.row)))
            for n in notices
        ]
        with transaction(self._db, self._path, "take what is to be told"):
            self._db.executemany(
                "INSERT OR IGNORE INTO notices (recipient, warning, at_ms, due_ms, critical, reason, document)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            for recipient in {notice.recipient for notice in notices}:
                self._db.execute(
                    "UPDATE notices SET done_ms = due_ms, refused = 'too many wait' WHERE seq IN (SELECT seq"
                    " FROM notices WHERE recipient = ? AND done_ms IS NULL AND letter IS NULL"
                    " ORDER BY critical DESC, seq DESC LIMIT -1 OFFSET ?)",
                    (recipient, WAITING),
                )
            self._set(f"position {generation}", str(seq))

    def told_text(self, recipient: str, warning: str) -> str | None:
        """Return what a recipient was told of a warning last, or is to be; None where that is nothing."""
        query = (
            "SELECT json_extract(document, '$.text') FROM notices"
            " WHERE recipient = ? AND warning = ? AND refused IS NULL ORDER BY seq DESC LIMIT 1"
        )
        with named_errors(self._path, "look up what was told"):
            found = self._db.execute(query, (recipient, warning)).fetchone()
        return None if found is None else str(found[0])

    # --- what goes out

    def next_letter(self, recipient: str, now_ms: int) -> Bundle | None:
        """Return the letter that a recipient is to get now: one that was begun, or what is due, the critical apart.

        Raises:
            StoreError: the box cannot be written.
        """
        with named_errors(self._path, "look for a letter"):
            begun = self._db.execute(
                "SELECT min(letter) FROM notices WHERE recipient = ? AND done_ms IS NULL AND letter IS NOT NULL",
                (recipient,),
            ).fetchone()[0]
            if begun is None:
                due = self._db.execute(
                    "SELECT seq, critical FROM notices WHERE recipient = ? AND done_ms IS NULL AND due_ms <= ?"
                    " ORDER BY critical DESC, seq LIMIT ?",
                    (recipient, now_ms, IN_A_LETTER),
                ).fetchall()
                if not due:
                    return None
                begun = max(seq for seq, _ in due)  # no other letter holds this one
                chosen = [(begun, seq) for seq, critical in due if critical == due[0][1]]
                with transaction(self._db, self._path, "begin a letter"):
                    self._db.executemany("UPDATE notices SET letter = ? WHERE seq = ?", chosen)
            query = "SELECT due_ms, critical, document FROM notices WHERE recipient = ? AND letter = ? ORDER BY seq"
            rows = self._db.execute(query, (recipient, begun)).fetchall()
        documents = tuple(json.loads(document) for _, _, document in rows)
        return Bundle(begun, recipient, min(due_ms for due_ms, _, _ in rows), bool(rows[0][1]), documents)

    def done(self, letter: Bundle, at_ms: int, refused: str | None = None) -> None:
        """Take note that a letter arrived, or (``refused``) why it never will.

        Raises:
            StoreError: it was not noted: the letter goes again, under the same id.
        """
        with transaction(self._db, self._path, "note what was told"):
            self._db.execute(
                "UPDATE notices SET done_ms = ?, refused = ? WHERE recipient = ? AND letter = ?",
                (at_ms, refused, letter.recipient, letter.number),
            )

    def waiting(self, now_ms: int) -> dict[str, int]:
        """Return how many changes that are due wait, by recipient."""
        query = "SELECT recipient, count(*) FROM notices WHERE done_ms IS NULL AND due_ms <= ? GROUP BY recipient"
        with named_errors(self._path, "count"):
            return dict(self._db.execute(query, (now_ms,)).fetchall())

    def forget(self, now_ms: int) -> None:
        """Let go of what was told long ago.

        Raises:
            StoreError: it was not.
        """
        with transaction(self._db, self._path, "forget"):
            self._db.execute("DELETE FROM notices WHERE done_ms < ?", (now_ms - KEPT_MS,))

    # --- notes for others

    def note(self, key: str, text: str) -> None:
        """Leave word for the agent and for ``status``, where it is news.

        Raises:
            StoreError: it was not left.
        """
        if self.noted(key) != text:
            with transaction(self._db, self._path, "leave word"):
                self._set(key, text)

    def noted(self, key: str) -> str | None:
        """Return what ``note`` left, None where that is nothing."""
        with named_errors(self._path, "read a note"):
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def _set(self, key: str, text: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))
