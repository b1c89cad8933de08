"""The verb ``sync``: the courier as a service, or once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from agent.config import load_config
from agent.logs import log_to_stderr
from agent.verbs import add_config, clock_of, write_for_both_users

if TYPE_CHECKING:
    import argparse
    from types import FrameType

    from agent.clock import Clock
    from agent.config import Config
    from agent.verbs import Subparsers


def add_sync(subparsers: Subparsers) -> None:
    """Add the verb ``sync``."""
    text = "seal what the agent stored into the local lake, and push it to the cloud"
    parser = subparsers.add_parser("sync", help=text, description=text[0].upper() + text[1:] + ".")
    add_config(parser)
    parser.add_argument("--once", action="store_true", help="seal and push all that there is now, then end")
    parser.add_argument("--simulated-clock", metavar="START,REAL_EPOCH,SPEED", help="run on an accelerated clock")
    parser.set_defaults(run=_sync)


def _sync(arguments: argparse.Namespace) -> int:
    from sync.daemon import run  # noqa: PLC0415  # the clients of lake and cloud: only sync itself pays for them
    from sync.lane import any_alive  # noqa: PLC0415

    config = load_config(arguments.config)
    log_to_stderr()
    write_for_both_users()
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)  # the second one: leave at once, the next start finishes what is half done
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    code = run(config, clock_of(arguments, config), stop, once=arguments.once)
    if any_alive():  # a lane hangs on a dead link inside the client: not waited for, and not to be unwound
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def check_cloud(config: Config, clock: Clock) -> str:
    """Reach the cloud as ``sync`` would, and return one line that says what was found; for ``check``.

    Raises:
        ConfigError: ``[sync]`` names no usable place.
        CloudError: it cannot be reached, or refuses us.
        StoreError: house.db or sync.db cannot be read.
    """
    from agent.store import StoreReader  # noqa: PLC0415  # as above
    from sync.cloud import open_cloud, status_key  # noqa: PLC0415
    from sync.daemon import status_of  # noqa: PLC0415
    from sync.outbox import Outbox  # noqa: PLC0415

    url = config.sync.url
    if not url:
        return "[sync] url is empty: rows are sealed into the local lake and pushed nowhere"
    cloud = open_cloud(url, config.sync.options)
    if not config.data.sync_db.exists() or not config.data.house_db.exists():
        cloud.head(status_key("none"))
        return f"{url}: reachable; whether it lets us write shows when agent and sync have run once"
    with (
        StoreReader.open(config.data.house_db) as store,
        Outbox.view(config.data.sync_db, config.data.lake, store) as outbox,
    ):
        cloud.put_over(status_key(store.gateway), status_of(config, store, outbox, clock.now()))
    return f"{url}: reachable, and lets us write ({status_key(store.gateway)})"


def check_post(config: Config, _clock: Clock) -> str:
    """Reach each mail server and webhook as far as a letter would, and return who is told by which; for ``check``.

    Raises:
        PostError: somebody cannot be reached.
    """
    from sync.post import reach  # noqa: PLC0415  # as above

    if not config.notify:
        return "[[notify]] names nobody: warnings are told by MQTT only"
    for to in config.notify:
        if to.by != "topic":
            reach(to, config.email)
    return "reachable: " + ", ".join(f"{to.name} by {to.by}" for to in config.notify)
