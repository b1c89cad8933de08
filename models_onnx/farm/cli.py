"""The verb ``simulate``: a farm as replay files, or live over MQTT."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock import SimulatedClock
from agent.domain import to_ms
from agent.errors import UsageError
from models_onnx.farm.farm import DEFAULT_START, Farm
from models_onnx.farm.faults import FAULTS, parse_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from models_onnx.farm.faults import Fault

STAGGER_DAYS = (10, 30)  # ages of the youngest and the oldest flock: all have a course behind and a week or more ahead
PROGRESS_S = 1.0  # between two progress lines on a terminal
PROGRESS_PLAIN_S = 10.0  # and elsewhere


def add_simulate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``simulate`` to the command line."""
    parser = subparsers.add_parser(
        "simulate",
        help="a simulated farm: replay files, or live over MQTT",
        description="A simulated farm with weather, houses, flocks, sensors and faults; the same seed, the same farm.",
        epilog="Faults: " + "; ".join(f"{kind.name} ({kind.hours:g} h)" for kind in FAULTS.values()) + ".",
    )
    parser.add_argument("--houses", type=_whole, required=True, metavar="N", help="house1 to houseN")
    parser.add_argument("--days", type=_whole, required=True, metavar="D", help="how long, from START on")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="the same seed gives the same farm")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="write readings.csv, flocks.csv, events.csv and truth.csv"
    )
    where.add_argument("--mqtt", metavar="HOST:PORT", help="publish to this broker, paced by the clock")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME@HOUSE:DAY[+HOURS]",
        help="a fault that begins DAY days after START; may be given again (sensor_…-SIGNAL strikes another sensor)",
    )
    parser.add_argument("--stagger", action="store_true", help="flocks of different ages at START, else all day-old")
    parser.add_argument(
        "--field",
        action="store_true",
        help="as in the field: some sensors absent, meters that jump, readings sent again",
    )
    parser.add_argument("--site", default="farm1", help="site in the topics (farm1)")
    parser.add_argument(
        "--interval", type=_whole, default=60, metavar="S", help="simulated seconds between samples (60)"
    )
    parser.add_argument("--start", type=_instant, metavar="DATE", help="START (2026-01-01; with --mqtt: now)")
    live = parser.add_argument_group("with --mqtt")
    live.add_argument("--dialect", choices=("flat", "value"), help="one message per house (flat) or per signal")
    live.add_argument("--topic-prefix", default="flockwatch", help="of the flock commands (flockwatch)")
    live.add_argument(
        "--speed", type=float, metavar="X", help="X times faster than real time; prints the clock for others"
    )
    live.add_argument("--simulated-clock", metavar="START,REAL_EPOCH,SPEED", help="the clock that the others have")
    live.add_argument(
        "--past", type=_whole, metavar="DAYS", help="first send the DAYS days before START, at full speed"
    )
    parser.set_defaults(run=run_simulate)


def run_simulate(args: argparse.Namespace) -> int:
    """Do ``simulate``; return the exit code.

    Raises:
        UsageError: flags that do not go together, or a fault, house or day that is not there.
        BrokerError: the broker cannot be used.
    """
    houses = [f"house{i + 1}" for i in range(args.houses)]
    wanted = [parse_fault(text, houses, args.days) for text in args.fault]
    if args.out is not None:
        return _write(args, houses, lambda start: [w.at(to_ms(start), houses.index(w.house)) for w in wanted])
    return _publish(args, houses, lambda start: [w.at(to_ms(start), houses.index(w.house)) for w in wanted])


def _write(args: argparse.Namespace, houses: list[str], faults_from: Callable[[datetime], list[Fault]]) -> int:
    from models_onnx.farm.replay_files import write_replay  # noqa: PLC0415 - each form of the verb loads its own

    flags = {
        "--dialect": args.dialect,
        "--speed": args.speed,
        "--simulated-clock": args.simulated_clock,
        "--past": args.past,
    }
    if stray := [flag for flag, value in flags.items() if value is not None]:
        message = f"{', '.join(stray)}: only with --mqtt; files have no clock"
        raise UsageError(message)
    start = args.start or DEFAULT_START
    faults = faults_from(start)
    farm = Farm(len(houses), args.seed, start, faults=faults, ages=_ages(args), field=args.field)
    progress = _Progress()
    count = write_replay(
        farm, args.out, houses=houses, days=args.days, interval_s=args.interval, faults=faults, progress=progress
    )
    progress.close()
    print(f"{count} readings of {len(houses)} houses over {args.days} days in {args.out}")
    return 0


def _publish(args: argparse.Namespace, houses: list[str], faults_from: Callable[[datetime], list[Fault]]) -> int:
    from models_onnx.farm.publish import Address, publish  # noqa: PLC0415 - only here is paho needed

    host, _, port = args.mqtt.rpartition(":")
    if not host or not port.isdigit():
        message = f"--mqtt {args.mqtt!r} is not HOST:PORT; for example --mqtt localhost:1883"
        raise UsageError(message)
    clock = _clock(args)
    past_days = args.past or 0
    farm = Farm(
        len(houses),
        args.seed,
        clock.start,
        faults=faults_from(clock.start),
        ages=_ages(args),
        field=args.field,
        at_once=True,
        begin=clock.start - timedelta(days=past_days),
    )
    if args.speed is not None:
        print(f"--simulated-clock {clock}", flush=True)
    logging.basicConfig(level=logging.INFO, format="simulate: %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    count = publish(
        farm,
        Address(host, int(port), args.site, args.topic_prefix, args.dialect or "flat"),
        houses=houses,
        clock=clock,
        days=args.days,
        past_days=past_days,
        interval_s=args.interval,
        stop=stop,
    )
    print(f"{count} messages of {len(houses)} houses published to {args.mqtt}")
    return 0


def _clock(args: argparse.Namespace) -> SimulatedClock:
    """Return the clock to go by; plain real time is a clock of speed 1 that starts now."""
    if args.simulated_clock is not None:
        if args.speed is not None or args.start is not None:
            message = (
                "--simulated-clock already says when it starts and how fast it goes; leave --speed and --start out"
            )
            raise UsageError(message)
        return SimulatedClock.parse(args.simulated_clock)
    if args.speed is not None and not 0 < args.speed < float("inf"):
        message = f"--speed {args.speed:g} must be above 0"
        raise UsageError(message)
    if args.start is not None and args.speed is None:
        message = "--start with --mqtt needs --speed or --simulated-clock: without them it is now"
        raise UsageError(message)
    now = time.time()
    start = args.start or datetime.fromtimestamp(int(now), UTC)
    return SimulatedClock(start, now, args.speed or 1.0)


def _ages(args: argparse.Namespace) -> list[int]:
    """Return the flocks' ages at START."""
    if not args.stagger:
        return [0] * args.houses
    youngest, oldest = STAGGER_DAYS
    return [youngest + (oldest - youngest) * i // max(args.houses - 1, 1) for i in range(args.houses)]


class _Progress:
    """A progress line on standard error: one line that moves on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = PROGRESS_S if self._is_terminal else PROGRESS_PLAIN_S
        self._next = time.monotonic() + self._every_s
        self._shown = False

    def __call__(self, share: float) -> None:
        """Show ``share`` if the last showing is long enough ago."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        self._shown = True
        before, after = ("\r", "") if self._is_terminal else ("", "\n")
        sys.stderr.write(f"{before}simulate: {share:4.0%}{after}")
        sys.stderr.flush()

    def close(self) -> None:
        """End the moving line."""
        if self._shown and self._is_terminal:
            sys.stderr.write("\rsimulate: 100%\n")


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        message = f"{text!r} is not a whole number above 0"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as e:
        message = f"{text!r} is no date; write it as 2026-01-31 or 2026-01-31T06:00:00Z"
        raise argparse.ArgumentTypeError(message) from e
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
