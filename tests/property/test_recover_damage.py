"""Whatever happens to a house.db, what can be read comes back, what cannot is named, and nothing is made up."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.cli import main
from agent.domain import Event, Flock, FlockChange, HouseState, SeriesKey, to_ms
from agent.errors import StoreError
from agent.history import sealed_up_to
from agent.readings import Readings
from agent.store import STREAMS, Store, StoreReader
from agent.store.recover import Recovered, recover
from sync.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
T = to_ms(NOW)
PAGE = 4096
KEYS = tuple(SeriesKey(f"house{h}", f"signal-{s}") for h in (1, 2) for s in range(10))
COUNT = 20_000
A1 = Flock("house1", "A1", date(2026, 11, 1), 30_000)


def block(first: int, n: int) -> Readings:
    """Return readings, one a second, whose value tells which they are."""
    i = np.arange(first, first + n, dtype=np.int64)
    zeros = np.zeros(n, np.uint8)
    return Readings(
        KEYS, (i % len(KEYS)).astype(np.int32), T + 1000 * i, i.astype(np.float64), zeros, zeros, T + 1000 * i
    )


def event(number: int) -> Event:
    return Event(NOW + timedelta(seconds=number), "quality", "house1", f"signal-{number}", detail={"number": number})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a database of 20,000 readings and some of all else, closed in order."""
    path = tmp_path_factory.mktemp("sound") / "house.db"
    with Store.open(path) as store:
        store.append(block(0, COUNT), at_ms=T)
        changes = [
            FlockChange(NOW + timedelta(hours=n), "record", "house1", HouseState.ACTIVE, A1, {"n": n})
            for n in range(50)
        ]
        store.record(events=[event(n) for n in range(2000)], flock_changes=changes, judged_at=NOW)
    return path


def nothing_is_sealed(_stream: str, _generation: str | None) -> int:
    return 0


def content(path: Path) -> dict[str, set[Any]]:
    """Return the readings, and the rows of the streams that ``sound`` has, by what they say."""
    with StoreReader.open(path) as reader:
        rows = {stream: reader.rows(stream, 1, 2**62) for stream in STREAMS}
    names = {
        "readings": ("house", "signal", "at", "value", "quality"),
        "events": ("at", "kind", "house", "signal", "detail"),
        "flocks": ("at", "house", "flock", "action", "state", "detail"),
    }
    return {stream: set(zip(*(rows[stream][n] for n in columns), strict=True)) for stream, columns in names.items()}


def leaves(path: Path, table: str) -> dict[int, int]:
    """Return the rows that stand on each page of a table which holds rows."""
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT pageno, ncell FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
        return dict(db.execute(query, (table,)).fetchall())


def recovered(folder: Path, damaged: Path) -> tuple[Recovered, dict[str, set[Any]]]:
    """Recover into a new database; return what was said, and what is there."""
    new = folder / "new" / "house.db"
    done = recover(new, damaged, sealed_up_to=nothing_is_sealed, at_ms=T)
    found = content(new)
    found["events"] = {row for row in found["events"] if row[1] not in {"recovered", "conflict"}}
    return done, found


@pytest.mark.parametrize("seed", range(12))
def test_garbage_on_any_pages_costs_only_what_stands_on_them(sound: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    damaged = tmp_path / "house-1.db"
    shutil.copyfile(sound, damaged)
    pages = list(leaves(sound, "readings")) + list(leaves(sound, "events"))
    spoilt = chance.sample(pages, chance.choice([1, 3, 20]))
    with damaged.open("r+b") as file:
        for page in spoilt:
            file.seek((page - 1) * PAGE)
            file.write(chance.randbytes(PAGE) if seed % 2 else bytes(PAGE))
    before = damaged.read_bytes()
    done, found = recovered(tmp_path, damaged)
    whole = content(sound)
    for stream in ("readings", "events"):
        on_spoilt = sum(rows for page, rows in leaves(sound, stream).items() if page in spoilt)
        assert found[stream] <= whole[stream]
        beside = 2 * len(done.lost.get(stream, [])) if stream == "readings" else 0  # the rows next to damage: no JSON
        # tells whether they are whole, so they are not believed
        assert len(whole[stream]) - on_spoilt - beside <= len(found[stream]) <= len(whole[stream]) - on_spoilt
        assert bool(done.lost.get(stream)) == bool(on_spoilt)
        assert sum(lost.last_seq - lost.first_seq + 1 for lost in done.lost.get(stream, [])) >= on_spoilt
    assert found["flocks"] == whole["flocks"]
    assert damaged.read_bytes() == before


def _zeroed(pages: int) -> Callable[[bytes, random.Random], bytes]:
    return lambda content, _chance: bytes(PAGE * pages) + content[PAGE * pages :]


def _stretch(content: bytes, chance: random.Random) -> bytes:
    begins = chance.randrange(len(content))
    length = chance.randrange(1, 300_000)
    return content[:begins] + chance.randbytes(min(length, len(content) - begins)) + content[begins + length :]


def _swapped(content: bytes, chance: random.Random) -> bytes:
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    for _ in range(5):
        i, j = chance.randrange(1, len(pages)), chance.randrange(1, len(pages))
        pages[i], pages[j] = pages[j], pages[i]
    return b"".join(pages)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "the beginning is zeroed": _zeroed(1),
    "the first pages are zeroed": _zeroed(4),
    "the second half is gone": lambda content, _chance: content[: len(content) // 2],
    "it is cut off anywhere": lambda content, chance: content[: chance.randrange(len(content))],
    "it is cut off within a page": lambda content, chance: content[: PAGE * chance.randrange(1, 200) + 77],
    "a stretch of garbage": _stretch,
    "everything is garbage": lambda content, chance: chance.randbytes(len(content)),
    "everything is zero": lambda content, _chance: bytes(len(content)),
    "it is empty": lambda _content, _chance: b"",
    "pages have changed places": _swapped,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_crashes_a_recovery_and_no_wrong_row_comes_out(
    sound: Path, tmp_path: Path, damage: str, seed: int
) -> None:
    damaged = tmp_path / "house-1.db"
    damaged.write_bytes(DAMAGES[damage](sound.read_bytes(), random.Random(seed)))
    done, found = recovered(tmp_path, damaged)
    whole = content(sound)
    for stream, rows in found.items():
        assert rows <= whole[stream], stream
    if found != whole:
        assert done.lost or done.unreadable
    with closing(sqlite3.connect(tmp_path / "new" / "house.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_lost_beginning_costs_no_reading(sound: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "house-1.db"
    damaged.write_bytes(_zeroed(1)(sound.read_bytes(), random.Random(1)))
    assert recovered(tmp_path, damaged)[1] == content(sound)


def test_what_is_only_in_the_wal_comes_back_with_it_and_without_it_nothing_breaks(tmp_path: Path) -> None:
    path = tmp_path / "house.db"
    with Store.open(path) as store:
        store.append(block(0, 500), at_ms=T)
        for end in ("", "-wal"):
            shutil.copyfile(tmp_path / f"house.db{end}", tmp_path / f"house-1.db{end}")
        shutil.copyfile(path, tmp_path / "house-2.db")
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert len(recovered(tmp_path / "with", tmp_path / "house-1.db")[1]["readings"]) == 500
    assert len(recovered(tmp_path / "without", tmp_path / "house-2.db")[1]["readings"]) <= 500


# --- into a database that has gone on ---------------------------------------------------------------------------------


def test_doing_it_again_adds_nothing(sound: Path, tmp_path: Path) -> None:
    first, found = recovered(tmp_path, sound)
    assert first.added["readings"] == COUNT
    second, again = recovered(tmp_path, sound)
    assert set(second.added.values()) == {0}
    assert second.known["readings"] == COUNT
    assert again == found


def test_recovered_readings_are_late_and_the_agent_sees_them_at_its_next_start(sound: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "house.db"
    with Store.open(new) as store:
        store.append(block(COUNT, 100), at_ms=T)
        store.record(observed_seq=store.last_seq)
    recover(new, sound, sealed_up_to=nothing_is_sealed, at_ms=T)
    with Store.open(new) as store:
        assert sum(len(readings) for readings in store.restore().newer) == COUNT
    with StoreReader.open(new) as reader:
        rows = reader.rows("readings", 1, 2**62)
    assert set(rows["time_quality"][100:]) == {"late"}
    assert rows["received_at"][100:] == [T + 1000 * i for i in range(COUNT)]


def test_a_reading_that_both_hold_stays_as_the_present_one_has_it(sound: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "house.db"
    with Store.open(new) as store:
        store.append(block(100, 50), at_ms=T)
    done, found = recovered(tmp_path, sound)
    assert (done.added["readings"], done.known["readings"]) == (COUNT - 50, 50)
    assert found["readings"] == content(sound)["readings"]


def test_what_is_in_the_lake_is_not_brought_back(sound: Path, tmp_path: Path) -> None:
    """Else the lake would hold it twice, under two generations."""
    old = tmp_path / "old" / "house.db"
    old.parent.mkdir()
    shutil.copyfile(sound, old)
    lake = tmp_path / "lake"
    with StoreReader.open(old) as store, Outbox.open(tmp_path / "sync.db", lake, store, "farm1") as outbox:
        assert outbox.seal_next("readings", 15_000, T) == 15_000
    done = recover(tmp_path / "new" / "house.db", old, sealed_up_to=partial(sealed_up_to, lake), at_ms=T)
    assert done.sealed["readings"] == 15_000
    assert done.added["readings"] == COUNT - 15_000


def test_what_the_present_database_says_of_a_flock_stays_its_newest_word(sound: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "house.db"
    thinned = FlockChange(NOW + timedelta(days=9), "thin", "house1", HouseState.THINNED, A1, {"birds": 1})
    with Store.open(new) as store:
        store.record(flock_changes=[thinned])
    recover(new, sound, sealed_up_to=nothing_is_sealed, at_ms=T)
    with Store.open(new) as store:
        known = store.restore()
    assert known.houses["house1"] == known.flocks[-1] == thinned
    recover(tmp_path / "empty" / "house.db", sound, sealed_up_to=nothing_is_sealed, at_ms=T)
    with Store.open(tmp_path / "empty" / "house.db") as store:
        assert store.restore().houses["house1"].detail == {"n": 49}


def test_a_recovery_beside_a_running_agent_is_refused(sound: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db"), pytest.raises(StoreError, match="stop the agent first: systemctl stop"):
        recover(tmp_path / "house.db", sound, sealed_up_to=nothing_is_sealed, at_ms=T)


def test_the_verb_takes_what_lies_in_the_quarantine_and_says_what_became_of_it(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quarantine = tmp_path / "data" / "quarantine"
    quarantine.mkdir(parents=True)
    shutil.copyfile(sound, quarantine / "house-20261118T120000Z.db")
    with (quarantine / "house-20261118T120000Z.db").open("r+b") as file:
        for page in list(leaves(sound, "readings"))[5:8]:
            file.seek((page - 1) * PAGE)
            file.write(b"\xff" * PAGE)
    config = tmp_path / "agent.toml"
    config.write_text(f'[data]\ndirectory = "{tmp_path}/data"\n')
    assert main(["data", "recover", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "readings: unreadable are rows" in said
    assert "events: 2,000 recovered" in said
    left = {path.name for path in quarantine.iterdir()}
    assert "recovered-house-20261118T120000Z.db" in left
    assert not [name for name in left if name.startswith("house-")]
    assert main(["data", "recover", "--config", str(config)]) == 0
    assert "nothing to recover" in capsys.readouterr().out
    assert main(["data", "recover", "--config", str(config), "--from", str(sound)]) == 0
    assert sound.exists()
    assert main(["data", "recover", "--config", str(config), "--from", str(tmp_path / "none.db")]) == 2
