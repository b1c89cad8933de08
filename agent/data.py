"""The verb ``data``: what lies in the databases, and taking it out, keeping it safe and getting it back."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import load_config
from agent.domain import from_ms, to_ms
from agent.errors import UsageError
from agent.verbs import add_config, clock_of, instant, write_for_both_users

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from agent.store.recover import Recovered
    from agent.store.tables import Selection, TableFacts
    from agent.verbs import Subparsers

EXPORTED = ("readings", "readings_15min", "warnings", "predictions", "flocks", "events", "replay")


def add_data(subparsers: Subparsers) -> None:
    """Add the verb ``data``."""
    text = "look into the databases, export, back up, restore, recover"
    data = subparsers.add_parser("data", help=text, description=text[0].upper() + text[1:] + ".")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, said: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=said, description=said[0].upper() + said[1:] + ".")
        add_config(parser)
        parser.set_defaults(run=run)
        return parser

    tables = action("tables", "the tables of house.db and sync.db: rows, bytes, from when to when", _tables)
    tables.add_argument("--json", action="store_true", help="print JSON")
    rows = action("rows", "the newest rows of a table, in words", _rows)
    rows.add_argument("table", metavar="TABLE", help="a table of house.db or sync.db, as `data tables` lists them")
    rows.add_argument("--limit", type=int, default=20, help="how many (default: %(default)s)")
    _add_selection(rows)
    rows.add_argument("--json", action="store_true", help="print JSON")
    export = action("export", "write what was stored into files: one stream, or all that `replay` needs", _export)
    export.add_argument("what", choices=EXPORTED, help="a stream; replay: readings.csv, flocks.csv, events.csv")
    export.add_argument("--format", choices=("csv", "parquet", "json"), help="of a stream (default: the file's ending)")
    export.add_argument("--out", type=Path, required=True, metavar="PATH", help="the file; for replay the folder")
    _add_selection(export)
    backup = action("backup", "write flocks, states, windows and configuration into one file, without keys", _backup)
    backup.add_argument("file", type=Path, metavar="FILE.tar.gz")
    backup.add_argument("--with-readings", action="store_true", help="also the readings of the last days")
    restore = action("restore", "let this gateway go on where a backup was taken", _restore)
    restore.add_argument("file", type=Path, metavar="FILE.tar.gz")
    restore.add_argument("--data", type=Path, metavar="DIR", help="the data directory (default: of the configuration)")
    restore.add_argument("--force", action="store_true", help="move the database that is there into quarantine/")
    recover = action("recover", "bring back what a damaged database still holds", _recover)
    recover.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="the file (default: all in quarantine/)"
    )
    action("vacuum", "write house.db anew without what was deleted", _vacuum)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=instant, metavar="TIME", help="from this time on, as 2026-11-22T14:30:00Z")
    parser.add_argument("--until", type=instant, metavar="TIME", help="before this time")
    parser.add_argument("--house", help="of this house")
    parser.add_argument("--signal", help="of this signal")


def _selection(arguments: argparse.Namespace) -> Selection:
    from agent.store.tables import Selection  # noqa: PLC0415  # as in agent.verbs: each verb pays for itself alone

    since_ms = None if arguments.since is None else to_ms(arguments.since)
    until_ms = None if arguments.until is None else to_ms(arguments.until)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        message = "--since is not before --until: nothing lies between them"
        raise UsageError(message)
    return Selection(since_ms, until_ms, arguments.house, arguments.signal)


# --- looking ----------------------------------------------------------------------------------------------------------


def _tables(arguments: argparse.Namespace) -> int:
    from agent.store.tables import tables_of  # noqa: PLC0415  # as above

    data = load_config(arguments.config).data
    facts = tables_of(data.house_db)
    if data.sync_db.exists():
        facts += tables_of(data.sync_db)
    if arguments.json:
        print(json.dumps([_table_value(one) for one in facts], indent=2))
        return 0
    head = ("database", "table", "rows", "kB", "oldest", "newest", "what it is for")
    lines = [
        (
            one.database,
            one.name,
            f"{one.rows:,}",
            "?" if one.bytes is None else f"{one.bytes / 1000:,.0f}",
            _time(one.oldest_ms),
            _time(one.newest_ms),
            one.purpose,
        )
        for one in facts
    ]
    print("\n".join(_aligned(head, lines, right={2, 3})))
    return 0


def _table_value(one: TableFacts) -> dict[str, object]:
    return {
        "database": one.database,
        "table": one.name,
        "rows": one.rows,
        "bytes": one.bytes,
        "oldest": _time(one.oldest_ms) or None,
        "newest": _time(one.newest_ms) or None,
        "purpose": one.purpose,
    }


def _rows(arguments: argparse.Namespace) -> int:
    from agent.store.tables import names_of, rows_of  # noqa: PLC0415  # as above

    if arguments.limit < 1:
        message = f"--limit {arguments.limit}: give a number above 0"
        raise UsageError(message)
    data = load_config(arguments.config).data
    is_of_sync = data.sync_db.exists() and arguments.table in names_of(data.sync_db)
    path = data.sync_db if is_of_sync else data.house_db
    found = rows_of(path, arguments.table, _selection(arguments), arguments.limit)
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("no such row")
    else:
        print("\n".join(_aligned(tuple(found[0]), [tuple(_cell(value) for value in row.values()) for row in found])))
    return 0


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _aligned(head: Sequence[str], lines: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Return a table for people; the last column may be as wide as it likes."""
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if i in set(right) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *lines)
    ]


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return ""
    try:
        return from_ms(at_ms).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a sensor's impossible time is shown as the number that it is
        return str(at_ms)


# --- taking out -------------------------------------------------------------------------------------------------------


def _export(arguments: argparse.Namespace) -> int:
    from agent.export import export, export_replay  # noqa: PLC0415  # as above

    config, selection, out = load_config(arguments.config), _selection(arguments), arguments.out
    if arguments.what == "replay":
        if arguments.format not in {None, "csv"} or arguments.signal is not None:
            message = "export replay writes CSV files of all signals: leave --format and --signal out"
            raise UsageError(message)
        done = export_replay(config, out, selection)
    else:
        form = arguments.format or out.suffix.removeprefix(".")
        if form not in {"csv", "parquet", "json"}:
            message = f"--out {out}: its ending names no format; add --format csv, parquet or json"
            raise UsageError(message)
        done = export(config, arguments.what, form, out, selection)
    print(f"{out}: {done}")
    for note in done.notes:
        print(f"note: {note}")
    for why in done.left_out:
        print(f"flockwatch: left out: {why}", file=sys.stderr)
    return 1 if done.left_out else 0


# --- keeping safe -----------------------------------------------------------------------------------------------------


def _backup(arguments: argparse.Namespace) -> int:
    from agent.backup import backup  # noqa: PLC0415  # as above

    config = load_config(arguments.config)
    now = clock_of(arguments, config).now()
    made = backup(config, arguments.config, arguments.file, now, with_readings=arguments.with_readings)
    size = arguments.file.stat().st_size
    print(f"{arguments.file}: {size / 1000:,.0f} kB, of gateway {made.gateway} at {made.at}")
    if made.left_out:
        print(f"secrets are not in it: {', '.join(made.left_out)}")
    for key, path in made.put_back.items():
        print(f"not in it, keep it elsewhere: {key} = {path}")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from agent.backup import restore  # noqa: PLC0415  # as above

    config = load_config(arguments.config)
    data = arguments.data or config.data.directory
    write_for_both_users()
    done = restore(arguments.file, data, clock_of(arguments, config).now(), force=arguments.force)
    made = done.manifest
    print(f"{data}: site {made.site} goes on from {made.at}; gateway {done.gateway} (it was {made.gateway})")
    if done.replaced is not None:
        print(f"the database that was there is now {done.replaced}")
    print(f"the old configuration lies in {done.settings}: compare it with yours")
    for key, path in made.put_back.items():
        print(f"put back: {key} = {path}")
    for key in made.left_out:
        print(f"fill in: {key}")
    return 0


def _recover(arguments: argparse.Namespace) -> int:
    from agent.history import sealed_up_to  # noqa: PLC0415  # as above
    from agent.store.recover import recover  # noqa: PLC0415

    config = load_config(arguments.config)
    folder = config.data.directory / "quarantine"
    if arguments.source is not None and not arguments.source.is_file():
        message = f"--from {arguments.source}: there is no such file"
        raise UsageError(message)
    files = [arguments.source] if arguments.source is not None else sorted(folder.glob("house-*.db"))
    if arguments.source is None:
        for log in sorted(folder.glob("house-*.wal")):
            print(f"{log}: the end of a log whose database is sound; what it held cannot be read any more: remove it")
    if not files:
        print(f"{folder}: no damaged database lies there; nothing to recover")
        return 0
    at_ms = to_ms(clock_of(arguments, config).now())
    write_for_both_users()
    for file in files:
        done = recover(config.data.house_db, file, sealed_up_to=partial(sealed_up_to, config.data.lake), at_ms=at_ms)
        print("\n".join(_recovered_lines(done)))
        if file.parent == folder and file.name.startswith("house-"):
            for end in ("-wal", "-shm", ""):
                part = file.with_name(file.name + end)
                if part.exists():
                    part.rename(part.with_name(f"recovered-{part.name}"))
            print(f"  it is now {folder / f'recovered-{file.name}'}; remove it when nothing is missing")
    return 0


def _recovered_lines(done: Recovered) -> list[str]:
    lines = [str(done.path)]
    for what, added in done.added.items():
        sealed = f", {done.sealed[what]:,} are in the lake" if done.sealed.get(what) else ""
        lines.append(f"  {what}: {added:,} recovered, {done.known[what]:,} were there already{sealed}")
    for stream, lost in done.lost.items():
        shown = ", ".join(f"{one.first_seq} to {one.last_seq} ({one.why})" for one in lost[:10])
        more = f" and {len(lost) - 10} more places" if len(lost) > 10 else ""
        lines.append(f"  {stream}: unreadable are rows {shown}{more}")
    lines += [f"  {table}: unreadable, wholly or in part: {why}" for table, why in done.unreadable]
    return lines


def _vacuum(arguments: argparse.Namespace) -> int:
    from agent.store.care import vacuum  # noqa: PLC0415  # as above

    path = load_config(arguments.config).data.house_db
    write_for_both_users()
    before, after = vacuum(path)
    print(f"{path}: {before / 1e6:,.2f} MB before, {after / 1e6:,.2f} MB now")
    return 0
