"""A dead card in mid-flock: a new gateway goes on where the backup was taken, and no archive can do harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import agent
from agent import backup as archives
from agent.backup import FORMAT, backup, restore
from agent.config import Config, Data, load_config
from agent.domain import SeriesKey, to_ms
from agent.errors import ConfigError, InputError, StoreError, UsageError
from agent.readings import Readings
from agent.store import Store, StoreReader
from agent.store.care import vacuum
from agent.store.file import locked, migrations

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
T = to_ms(NOW)
WATER = SeriesKey("house1", "water")
COPIES = Path(__file__).parents[1] / "data"


def newest_copy() -> Path:
    return max(COPIES.glob("house-v*.db"), key=lambda path: int(path.stem.removeprefix("house-v")))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Give the configuration of a data directory with a row of everything in it."""
    data = tmp_path / "old"
    data.mkdir()
    shutil.copyfile(newest_copy(), data / "house.db")
    Store.open(data / "house.db").close()
    return Config(data=Data(directory=data))


def readings(first_ms: int, n: int, key: SeriesKey = WATER) -> Readings:
    at_ms = np.arange(first_ms, first_ms + n * 1000, 1000, dtype=np.int64)
    zeros = np.zeros(n, np.uint8)
    return Readings((key,), np.zeros(n, np.int32), at_ms, at_ms / 1000.0, zeros, zeros, at_ms)


def known(path: Path) -> dict[str, Any]:
    """Return all that a restart takes from the database at ``path``."""
    with Store.open(path) as store:
        restored = store.restore()
        return {f.name: getattr(restored, f.name) for f in fields(restored) if f.name not in {"buckets", "newer"}} | {
            "buckets": sorted(restored.buckets),
            "newer": [(r.at_ms.tolist(), r.value.tolist(), [r.keys[k] for k in r.key]) for r in restored.newer],
        }


def table(path: Path, name: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {name}").fetchall()


def meta(path: Path) -> dict[str, str]:
    return dict(table(path, "meta"))


@pytest.fixture
def archive(config: Config, tmp_path: Path) -> Path:
    path = tmp_path / "farm.tar.gz"
    backup(config, None, path, NOW, with_readings=False)
    return path


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_readings", [False, True])
def test_a_new_gateway_knows_what_the_old_one_knew(config: Config, tmp_path: Path, with_readings: bool) -> None:
    """Standings, flocks, windows, rhythms, newest times, commands, and readings that were not observed yet."""
    with Store.open(config.data.house_db) as store:
        store.append(readings(T, 500), at_ms=T)
        store.record(observed_seq=store.last_seq - 40)
    before = known(config.data.house_db)
    backup(config, None, tmp_path / "farm.tar.gz", NOW, with_readings=with_readings)
    restore(tmp_path / "farm.tar.gz", tmp_path / "new", NOW, force=False)
    path = tmp_path / "new" / "house.db"
    after = known(path)
    assert len(after["newer"][0][0]) == 40
    assert len(table(path, "readings")) == (716 if with_readings else 40)
    for name in set(before) - {"observed_seq"}:
        assert after[name] == before[name], name
    for name in ("warnings", "predictions", "flocks", "commands", "sealed_times", "buckets", "warning_states"):
        assert table(path, name) == table(config.data.house_db, name) != []


@pytest.mark.parametrize("with_readings", [False, True])
@pytest.mark.parametrize("observed", [0, 100, 216 + 72, 216 + 72 + 500])
def test_a_new_gateway_takes_no_reading_twice_and_every_new_one(
    config: Config, tmp_path: Path, with_readings: bool, observed: int
) -> None:
    """Wherever the agent stood with observing and saving: ``seen_seq`` and ``observed_seq`` are moved along."""
    with Store.open(config.data.house_db) as store:
        store.append(readings(T, 500), at_ms=T)
        store.record(observed_seq=observed)
        backup(config, None, tmp_path / "farm.tar.gz", NOW, with_readings=with_readings)  # the agent is at work
    restore(tmp_path / "farm.tar.gz", tmp_path / "new", NOW, force=False)
    with Store.open(tmp_path / "new" / "house.db") as store:
        stored = len(table(tmp_path / "new" / "house.db", "readings"))
        assert store.last_seq == stored  # numbers begin anew
        again = store.append(readings(T, 500), at_ms=T)
        kept = 500 if with_readings else max(0, 788 - max(observed, 288))
        assert len(again) == 500 - kept  # what the backup does not hold comes in as late, and no newest time is lost
        assert store.restore().newest_ms[WATER] == T + 499_000
        assert len(store.append(readings(T + 500_000, 10), at_ms=T)) == 10


def test_the_new_gateway_has_a_name_of_its_own_and_says_where_it_comes_from(archive: Path, tmp_path: Path) -> None:
    old = meta(tmp_path / "old" / "house.db")
    done = restore(archive, tmp_path / "new", NOW + timedelta(days=1), force=False)
    new = meta(tmp_path / "new" / "house.db")
    assert (new["gateway"], new["generation"]) == (done.gateway, done.generation)
    assert len(new["gateway"]) == 12
    assert new["gateway"] != old["gateway"]
    assert new["generation"] != old["generation"]
    assert "health" not in new
    *_, event = table(tmp_path / "new" / "house.db", "events")
    assert event[1:3] == (T + 86_400_000, "restored")
    assert json.loads(event[-1]) == {
        "from_gateway": old["gateway"], "from_generation": old["generation"], "backup_at": "2026-11-18T12:00:00Z",
        "backup_version": done.manifest.version,
    }  # fmt: skip


def test_two_restores_of_one_backup_are_two_gateways(archive: Path, tmp_path: Path) -> None:
    names = [restore(archive, tmp_path / name, NOW, force=False).gateway for name in ("a", "b")]
    assert names[0] != names[1]


def test_a_backup_of_an_older_version_comes_forward(archive: Path, tmp_path: Path) -> None:
    oldest = min(COPIES.glob("house-v*.db"), key=lambda path: int(path.stem.removeprefix("house-v")))
    restore(forged(archive, tmp_path, database=oldest.read_bytes()), tmp_path / "new", NOW, force=False)
    assert known(tmp_path / "new" / "house.db")["flocks"]
    with closing(sqlite3.connect(tmp_path / "new" / "house.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(migrations())


WRITER = """
import sys
from pathlib import Path
import numpy as np
from agent.domain import SeriesKey
from agent.readings import Readings
from agent.store import Store
keys = tuple(SeriesKey("house1", f"s{n}") for n in range(50))
zeros = np.zeros(50, np.uint8)
with Store.open(Path(sys.argv[1])) as store:
    at = 1_800_000_000_000
    while True:
        at += 1000
        values = np.full(50, float(at))
        block = Readings(keys, np.arange(50, dtype=np.int32), np.full(50, at), values, zeros, zeros, np.full(50, at))
        seq = store.append(block, at_ms=at).last_seq
        buckets = [("house1", key.signal, 600, at, seq, 1.0, 1.0, 1.0, 1.0, at) for key in keys]
        store.record(buckets=buckets, observed_seq=seq)
        print(seq, flush=True)
"""


def test_a_backup_beside_a_busy_agent_is_of_one_instant(config: Config, tmp_path: Path) -> None:
    """Every bucket tells up to which reading it goes: those of one instant, and ``observed_seq``, agree."""
    environment = os.environ | {"PYTHONPATH": str(Path(agent.__file__).parents[1])}
    command = [sys.executable, "-c", WRITER, str(config.data.house_db)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        try:
            for number in range(5):
                for _ in range(20):
                    writer.stdout.readline()
                backup(config, None, tmp_path / f"{number}.tar.gz", NOW, with_readings=True)
                assert writer.poll() is None
        finally:
            writer.kill()
    for number in range(5):
        restore(tmp_path / f"{number}.tar.gz", tmp_path / f"new{number}", NOW, force=False)
        path = tmp_path / f"new{number}" / "house.db"
        newest = max(row[1] for row in table(path, "buckets"))
        of_newest = [row for row in table(path, "buckets") if row[1] == newest]
        assert len({row[4] for row in of_newest}) == 1
        assert len(of_newest) == 50
        assert len(table(path, "readings")) - int(meta(path)["observed_seq"]) in {0, 50}


# --- no keys ----------------------------------------------------------------------------------------------------------

SETTINGS = """
# the old password was swordfish
[site]
id = "farm1"
timezone = "Europe/Copenhagen"
day_starts_at = 06:30:00
[mqtt]
username = "flockwatch"
password_file = "/etc/flockwatch/mqtt-password"
cert_file = "/etc/flockwatch/client.pem"
key_file = "/etc/flockwatch/client.key"
[[source]]
topic = "skov/{site}/{house}"
dialect = "flat"
rename = { "key" = "temperature", "a \\"token\\"" = "water" }
[[house]]
id = "house1"
name = "Østhus \\u007f \\"1\\""
area_m2 = 1600.5
[house.signals.water]
kind = "counter"
[warnings.rules.mortality]
states = ["active", "thinned"]
enabled = false
[sync]
url = "s3://bucket/prefix"
[sync.options]
access_key_id = "AKIAswordfish"
secret_access_key = "swordfish"
region = "eu-north-1"
session_token_file = "/run/t"
proxy = "http://anna:swordfish@10.0.0.1:3128"
"""


def test_a_backup_holds_the_configuration_without_any_secret(config: Config, tmp_path: Path) -> None:
    toml = tmp_path / "agent.toml"
    toml.write_text(SETTINGS, encoding="utf-8")
    secret = tmp_path / "mqtt-password"
    secret.write_text("swordfish")
    made = backup(config, toml, tmp_path / "farm.tar.gz", NOW, with_readings=True)
    assert made.left_out == ["sync.options.access_key_id", "sync.options.secret_access_key", "sync.options.proxy"]
    assert made.put_back == {
        "mqtt.password_file": "/etc/flockwatch/mqtt-password",
        "mqtt.cert_file": "/etc/flockwatch/client.pem",
        "mqtt.key_file": "/etc/flockwatch/client.key",
        "sync.options.session_token_file": "/run/t",
    }
    with tarfile.open(tmp_path / "farm.tar.gz") as tar:
        assert tar.getnames() == ["manifest.json", "agent.toml", "house.db"]
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            assert b"swordfish" not in file.read()
    restore(tmp_path / "farm.tar.gz", tmp_path / "new", NOW, force=False)
    restored = load_config(tmp_path / "new" / "restored-agent.toml")
    wanted = load_config(toml)
    kept = {"region": "eu-north-1", "session_token_file": "/run/t"}
    assert restored == wanted.model_copy(update={"sync": wanted.sync.model_copy(update={"options": kept})})
    assert stat_mode(tmp_path / "farm.tar.gz") == 0o600


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_shipped_configuration_goes_through_a_backup_unchanged(config: Config, tmp_path: Path) -> None:
    shipped = Path(agent.__file__).parents[1] / "agent.toml"
    examples = shipped.read_text(encoding="utf-8")
    lines = [line.removeprefix("#: ").removeprefix("#:") for line in examples.splitlines()]
    whole = tmp_path / "agent.toml"
    whole.write_text("\n".join(lines).replace('url = ""', 'url = "s3://b/p"'), encoding="utf-8")
    for path in (shipped, whole):
        backup(config, path, tmp_path / "farm.tar.gz", NOW, with_readings=False)
        with tarfile.open(tmp_path / "farm.tar.gz") as tar:
            file = tar.extractfile("agent.toml")
            assert file is not None
            said = tomllib.loads(file.read().decode())
        wanted = tomllib.loads(path.read_text(encoding="utf-8"))
        for name in ("secret_access_key", "session_token", "access_key_id"):
            wanted["sync"]["options"].pop(name, None)
        assert said == wanted


def test_a_backup_needs_a_place_and_a_readable_configuration(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.tar\.gz"):
        backup(config, None, tmp_path / "farm.zip", NOW, with_readings=False)
    with pytest.raises(UsageError, match="cannot be written"):
        backup(config, None, tmp_path / "nowhere" / "farm.tar.gz", NOW, with_readings=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        backup(config, tmp_path / "none.toml", tmp_path / "farm.tar.gz", NOW, with_readings=False)
    empty = Config(data=Data(directory=tmp_path / "empty"))
    with pytest.raises(StoreError, match="no such database"):
        backup(empty, None, tmp_path / "farm.tar.gz", NOW, with_readings=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_a_backup_that_fails_leaves_the_one_before(archive: Path, config: Config) -> None:
    before = archive.read_bytes()
    config.data.house_db.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError):
        backup(config, None, archive, NOW, with_readings=False)
    assert archive.read_bytes() == before
    assert [path.name for path in archive.parent.iterdir() if path.name.startswith(".")] == []


# --- where a restore is refused ---------------------------------------------------------------------------------------


def test_a_database_that_is_there_is_never_overwritten(archive: Path, config: Config) -> None:
    before = config.data.house_db.read_bytes()
    with pytest.raises(StoreError, match="--force"):
        restore(archive, config.data.directory, NOW, force=False)
    assert config.data.house_db.read_bytes() == before
    done = restore(archive, config.data.directory, NOW, force=True)
    assert done.replaced is not None
    assert done.replaced.parent == config.data.directory / "quarantine"
    assert done.replaced.read_bytes() == before
    again = restore(archive, config.data.directory, NOW, force=True)
    assert again.replaced != done.replaced


def test_what_restore_and_recover_make_is_the_couriers_too_whatever_the_shells_umask(
    archive: Path, config: Config, tmp_path: Path
) -> None:
    """Run as the documentation says, in a root shell's 022; else a damaged sync.db could not be put aside."""
    data = config.data.directory
    settings = tmp_path / "agent.toml"
    settings.write_text(f'[data]\ndirectory = "{data}"\n')

    def run(*words: str | Path) -> None:
        command = (sys.executable, "-m", "agent.cli", "data", *words, "--config", settings)
        subprocess.run(command, check=True, capture_output=True, umask=0o022, timeout=60)

    def modes() -> dict[str, int]:
        return {name: (data / name).stat().st_mode & 0o777 for name in ("house.db", "quarantine")}

    run("restore", archive, "--force")
    assert modes() == {"house.db": 0o660, "quarantine": 0o770}
    (data / "house.db").unlink()
    run("recover", "--from", next((data / "quarantine").glob("replaced-house-*.db")))
    assert modes() == {"house.db": 0o660, "quarantine": 0o770}


@pytest.mark.parametrize("force", [False, True])
def test_a_restore_beside_a_running_agent_is_refused(archive: Path, config: Config, force: bool) -> None:
    with Store.open(config.data.house_db), pytest.raises(StoreError, match="systemctl stop flockwatch-agent"):
        restore(archive, config.data.directory, NOW, force=force)
    with locked(config.data.house_db), pytest.raises(StoreError, match="systemctl stop flockwatch-agent"):
        vacuum(config.data.house_db)


def test_root_makes_nothing_that_the_agents_user_could_not_use(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock file or a database of root's would stop the agent at its next start."""
    new = tmp_path / "new"
    new.mkdir()
    if os.geteuid() == 0:
        os.chown(new, 1234, 1234)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(StoreError, match="runuser --user flockwatch"):
        restore(archive, new, NOW, force=False)
    assert list(new.iterdir()) == []


def members_of(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: file.read() for member in tar.getmembers() if (file := tar.extractfile(member))}


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


def forged(archive: Path, folder: Path, *, database: bytes | None = None, **said: object) -> Path:
    """Return a copy of an archive that says and holds other things, with sums that are right."""
    parts = members_of(archive)
    if database is not None:
        parts["house.db"] = database
    files = {
        name: {"bytes": len(parts[name]), "sha256": hashlib.sha256(parts[name]).hexdigest()}
        for name in ("agent.toml", "house.db")
    }
    parts["manifest.json"] = json.dumps(json.loads(parts["manifest.json"]) | {"files": files} | said).encode()
    return packed(folder / "forged.tar.gz", *((tarfile.TarInfo(name), content) for name, content in parts.items()))


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _with(name: str, content: bytes = b"x") -> Callable[[Path, Path], Path]:
    """Return what adds a member to an archive."""

    def make(archive: Path, folder: Path) -> Path:
        parts = [(tarfile.TarInfo(n), c) for n, c in members_of(archive).items()]
        return packed(folder / "x.tar.gz", *parts, (tarfile.TarInfo(name), content))

    return make


def _instead(member: tarfile.TarInfo, place: int) -> Callable[[Path, Path], Path]:
    def make(archive: Path, folder: Path) -> Path:
        parts = [(tarfile.TarInfo(n), c) for n, c in members_of(archive).items()]
        parts[place] = (member, b"x")
        return packed(folder / "x.tar.gz", *parts)

    return make


def _bomb(archive: Path, folder: Path) -> Path:
    """Ten terabytes of zeros are said to follow."""
    parts = members_of(archive)
    said = json.loads(parts["manifest.json"])
    said["files"]["house.db"]["bytes"] = 10**13
    first = (tarfile.TarInfo("manifest.json"), json.dumps(said).encode())
    return packed(folder / "x.tar.gz", first, (tarfile.TarInfo("agent.toml"), parts["agent.toml"]))


def _large_header(_archive: Path, folder: Path) -> Path:
    """An extended header of 3 GB, which tarfile would read into memory."""
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 3 * 10**9
    with gzip.open(folder / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(300):
            file.write(bytes(1_000_000))
    return folder / "x.tar.gz"


def _alien(statement: str) -> Callable[[Path, Path], Path]:
    def make(archive: Path, folder: Path) -> Path:
        path = folder / "alien.db"
        path.write_bytes(members_of(archive)["house.db"])
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(statement)
        return forged(archive, folder, database=path.read_bytes())

    return make


BAD_ARCHIVES: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a path out of the folder": (_with("../house.db"), "more than a backup"),
    "an absolute path": (_with("/etc/passwd"), "more than a backup"),
    "a path instead of the database": (_instead(tarfile.TarInfo("../../house.db"), 2), "house.db is missing"),
    "a link instead of the database": (_instead(_link("house.db", "/etc/passwd", tarfile.SYMTYPE), 2), "house.db is"),
    "a hard link": (_instead(_link("house.db", "agent.toml", tarfile.LNKTYPE), 2), "house.db is missing"),
    "a device": (_instead(_link("agent.toml", "", tarfile.CHRTYPE), 1), "agent.toml is missing"),
    "no manifest": (_instead(tarfile.TarInfo("readme"), 0), r"manifest\.json"),
    "a manifest that is none": (_instead(tarfile.TarInfo("manifest.json"), 0), "no whole backup"),
    "a bomb": (_bomb, "more than can be here"),
    "a header like a bomb": (_large_header, "far too large"),
    "a later format": (lambda a, f: forged(a, f, format="flockwatch-backup/2"), "newer program"),
    "other files": (lambda a, f: forged(a, f, files={"x": {"bytes": 1, "sha256": ""}}), "does not name the files"),
    "a negative size": (
        lambda a, f: forged(a, f, files={n: {"bytes": -1, "sha256": ""} for n in ("agent.toml", "house.db")}),
        "no whole backup",
    ),
    "no database": (lambda a, f: forged(a, f, database=b"hello" * 1000), "not a database|no sound database"),
    "an empty database": (lambda a, f: forged(a, f, database=b""), "no sound database"),
    "the database of another": (_alien("PRAGMA application_id = 7"), "not made by flockwatch"),
    "a later database": (_alien("PRAGMA user_version = 99"), "version 99"),
    "a trigger in it": (
        _alien("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM flocks; END"),
        "no sound database",
    ),
    "a zip": (lambda _a, f: _text(f, b"PK\x03\x04" + bytes(100)), "no whole backup"),
    "an empty file": (lambda _a, f: _text(f, b""), "no whole backup"),
}


def _text(folder: Path, content: bytes) -> Path:
    (folder / "x.tar.gz").write_bytes(content)
    return folder / "x.tar.gz"


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_a_bad_archive_is_refused_with_one_error_and_changes_nothing(case: str, archive: Path, tmp_path: Path) -> None:
    make, wanted = BAD_ARCHIVES[case]
    bad = make(archive, tmp_path)
    new = tmp_path / "new" / "data"
    new.mkdir(parents=True)
    with pytest.raises((InputError, StoreError), match=wanted):
        restore(bad, new, NOW, force=False)
    assert [path.name for path in new.iterdir()] == ["house.db.lock"]
    assert [path.name for path in new.parent.iterdir()] == ["data"]


def test_an_archive_that_is_cut_off_or_garbled_anywhere_is_refused(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    chance = random.Random(5)
    bad = tmp_path / "bad.tar.gz"
    for _ in range(40):
        cut = chance.randrange(1, len(content))
        bad.write_bytes(content[:cut])
        with pytest.raises((InputError, StoreError)):
            restore(bad, tmp_path / "new", NOW, force=False)
        place = chance.randrange(len(content))
        bad.write_bytes(content[:place] + bytes([content[place] ^ chance.randrange(1, 256)]) + content[place + 1 :])
        try:
            restore(bad, tmp_path / "new", NOW, force=False)
        except (InputError, StoreError):
            continue
        # a byte of the head that says nothing of the content
        assert place < 20
        assert known(tmp_path / "new" / "house.db")["flocks"]
        (tmp_path / "new" / "house.db").unlink()


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tar\.gz: cannot be read"):
        restore(tmp_path / "none.tar.gz", tmp_path / "new", NOW, force=False)


def test_the_form_of_a_backup_has_its_number() -> None:
    assert FORMAT == "flockwatch-backup/1"
    assert archives.ENDING == ".tar.gz"


# --- vacuum -----------------------------------------------------------------------------------------------------------


def test_vacuum_gives_the_disk_back_what_was_deleted_and_loses_no_row(config: Config) -> None:
    path = config.data.house_db
    with Store.open(path) as store:
        store.append(readings(T, 20_000), at_ms=T)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM readings WHERE seq > 1000")
    before = known(path), table(path, "readings")
    larger, smaller = vacuum(path)
    assert smaller < larger / 3
    assert path.stat().st_size == smaller
    assert (known(path), table(path, "readings")) == before
    with StoreReader.open(path) as reader:
        assert reader.last_seq("readings") > 1000


def test_vacuum_asks_for_the_space_that_it_needs_first(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(config.data.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    before = config.data.house_db.read_bytes()
    with pytest.raises(StoreError, match="MB are free"):
        vacuum(config.data.house_db)
    assert config.data.house_db.read_bytes() == before
    with pytest.raises(StoreError, match="no such database"):
        vacuum(config.data.directory / "none.db")
