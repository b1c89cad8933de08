"""The agent's own verbs: what each takes, and what it does."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import uuid
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.clock import SimulatedClock, SystemClock
from agent.config import NAME_PATTERN, load_config
from agent.errors import BrokerError, BundleError, ConfigError, InputError, StoreError, UsageError
from agent.languages import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Clock
    from agent.config import Config
    from agent.domain import Message

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it

ANSWER_WITHIN_S = 5.0
LONGEST_LISTEN_S = 86_400  # a day: what comes less often is seen in `flockwatch status`


def add_verbs(subparsers: Subparsers) -> None:
    """Add the parsers of the agent's verbs."""
    agent = _verb(subparsers, "agent", "run the agent: ingest, store, judge, warn", _agent)
    agent.add_argument("--simulated-clock", metavar="START,REAL_EPOCH,SPEED", help="run on an accelerated clock")
    check = _verb(subparsers, "check", "validate configuration, models, broker and cloud; one line per finding", _check)
    check.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument(
        "--listen",
        type=_seconds,
        metavar="SECONDS",
        help="listen to the broker instead: what arrives, what becomes of it and why, and what to configure",
    )
    status = _verb(subparsers, "status", "show how the agent is, from its database", _status)
    status.add_argument("--json", action="store_true", help="print JSON")
    drill = _verb(subparsers, "drill", "try the way of a warning, from a reading to the controllers and back", _drill)
    drill.add_argument("houses", nargs="*", type=_house, metavar="HOUSE", help="which (default: all)")
    drill.add_argument("--by", help="who wants it")
    drill.add_argument("--json", action="store_true", help="print JSON")
    _add_replay(subparsers)
    _add_flock(subparsers)
    _add_warning(subparsers)
    rules = _verb(subparsers, "rules", "show the warning rules as they are in force, by house and by age", _rules)
    rules.add_argument("--house", type=_house, help="of this house only (default: of all)")
    rules.add_argument("--json", action="store_true", help="print JSON")
    _add_model(subparsers)


def _verb(
    subparsers: Subparsers, name: str, text: str, run: Callable[[argparse.Namespace], int], *, config: bool = True
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if config:
        add_config(parser)
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, which every verb that works on an installation takes."""
    parser.add_argument("--config", type=Path, metavar="agent.toml", help="the configuration (default: built in)")


def clock_of(arguments: argparse.Namespace, config: Config) -> Clock:
    """Return the clock that was asked for, or the one that the data directory remembers; it is remembered from now on.

    Raises:
        UsageError: ``--simulated-clock`` has another form.
    """
    told: str | None = getattr(arguments, "simulated_clock", None)
    remembered = config.data.clock_file
    try:
        if told is not None:
            clock = SimulatedClock.parse(told)
            said = str(clock) + "\n"
            if not remembered.exists() or remembered.read_text(encoding="utf-8") != said:  # else the disk may be full
                remembered.parent.mkdir(parents=True, exist_ok=True)
                remembered.write_text(said, encoding="utf-8")
            return clock
        if remembered.exists():
            return SimulatedClock.parse(remembered.read_text(encoding="utf-8").strip())
    except OSError as e:
        message = f"[data] directory {remembered.parent} cannot be used: {e.strerror}; correct it or its rights"
        raise ConfigError(message) from e
    return SystemClock()


def write_for_both_users() -> None:
    """Let the group write what is made from here on, whatever the shell's umask; for verbs that write beside house.db.

    Agent and courier are two users of one group, and each puts files beside the other's (UMask= of their services).
    """
    os.umask(0o007)


# --- agent, check, status ---------------------------------------------------------------------------------------------


def _agent(arguments: argparse.Namespace) -> int:
    from agent import daemon  # noqa: PLC0415  # onnxruntime and paho: only the agent itself pays for them
    from agent.logs import log_to_stderr  # noqa: PLC0415

    config = load_config(arguments.config)
    log_to_stderr()
    write_for_both_users()
    return daemon.run(config, clock_of(arguments, config))


def _check(arguments: argparse.Namespace) -> int:
    if arguments.listen is not None:
        return _listen(arguments)
    from agent.check import check  # noqa: PLC0415  # as above

    findings = check(arguments.config, lambda config: clock_of(arguments, config))
    if arguments.json:
        print(json.dumps([finding.value() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
    return 1 if any(finding.is_bad for finding in findings) else 0


def _listen(arguments: argparse.Namespace) -> int:
    from agent.bus import listen  # noqa: PLC0415  # as above
    from agent.dialects import Decoder  # noqa: PLC0415
    from agent.listen import Listener, report_lines, report_value  # noqa: PLC0415
    from agent.store import StoreReader  # noqa: PLC0415

    config = load_config(arguments.config)
    try:
        with StoreReader.open(config.data.house_db) as reader:
            births = reader.births()
    except StoreError:  # the agent has not run yet, or not here: Sparkplug nodes are then read from their next birth on
        births = []
    clock, listener = clock_of(arguments, config), Listener(config, births)

    def hear(message: Message) -> None:
        for line in listener.hear(message, clock_trusted=clock.is_trusted()):
            if not arguments.json:
                print(line, flush=True)

    filters = [topic for topic, _ in Decoder(config).subscriptions]
    refused = listen(
        config.mqtt, config.client_id, filters, clock, seconds=arguments.listen, timeout_s=ANSWER_WITHIN_S, hear=hear
    )
    if refused is not None:
        print(f"flockwatch: only the topics of [[source]] were listened to: {refused}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(report_value(listener), indent=2))
    else:
        print("\n".join(report_lines(listener)))
    return 0 if listener.series else 1


def _status(arguments: argparse.Namespace) -> int:
    from agent.status import status_lines, status_value  # noqa: PLC0415  # as above

    value = status_value(load_config(arguments.config))
    if arguments.json:
        print(json.dumps(value, indent=2))
    else:
        print("\n".join(status_lines(value)))
    return 0


def _drill(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    outcomes = []
    for house in arguments.houses or [house.id for house in config.house]:
        command = json.dumps({"id": f"drill-{uuid.uuid4().hex[:12]}", "action": "drill", "by": arguments.by})
        outcome = _asked(
            config, house, "drill", command, within_s=ANSWER_WITHIN_S + config.drill.within_s, answers="result"
        )
        outcomes.append(outcome or {"house": house, "passed": False, "reason": "no answer", "steps": []})
    if arguments.json:
        print(json.dumps(outcomes, indent=2))
    else:
        for outcome in outcomes:
            steps = ", ".join(f"{step['step']} ({step['ms']} ms)" for step in outcome["steps"])
            said = "passed" if outcome["passed"] else f"FAILED: {outcome['reason']}"
            print(f"{outcome['house']}: {said}" + (f"; {steps}" if steps else ""))
    return 0 if outcomes and all(outcome["passed"] for outcome in outcomes) else 1


# --- replay -----------------------------------------------------------------------------------------------------------


def _add_replay(subparsers: Subparsers) -> None:
    replay = _verb(
        subparsers, "replay", "play recorded data through the same judgement as live, as fast as it goes", _replay
    )
    replay.add_argument("--readings", type=Path, required=True, metavar="R.csv", help="at,house,signal,value")
    replay.add_argument("--flocks", type=Path, required=True, metavar="F.csv", help="the flocks, with their truth")
    replay.add_argument("--events", type=Path, metavar="E.csv", help="flock commands: at,house,command")
    replay.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    replay.add_argument("--bundles", type=Path, metavar="DIR", help="model bundles (default: those shipped)")


def _replay(arguments: argparse.Namespace) -> int:
    from agent.bundles import load_bundles, shipped_directory, versions_in  # noqa: PLC0415  # as above
    from agent.predict import Predictor  # noqa: PLC0415
    from agent.replay import replay  # noqa: PLC0415

    config = load_config(arguments.config)
    directory = arguments.bundles or config.models.directory or shipped_directory()
    chosen = arguments.bundles is None or "use" in config.models.model_fields_set
    use = config.models.use if chosen else tuple(versions_in(directory))  # all that lie there, whatever their names
    if not use and not chosen:
        message = f"--bundles {directory}: no bundle lies there, as <name>/<version>/manifest.toml"
        raise BundleError(message)
    predictor = Predictor.load(load_bundles(directory, use), config.site.days, config.models.threads)
    if predictor.refused:
        raise BundleError("\n".join(f"{refused.bundle}: {refused.reason}" for refused in predictor.refused))
    print(replay(config, predictor, arguments.readings, arguments.flocks, arguments.events, arguments.out))
    return 0


# --- flock ------------------------------------------------------------------------------------------------------------


def _add_flock(subparsers: Subparsers) -> None:
    flock = subparsers.add_parser("flock", help="tell the agent about flocks, or list them")
    actions = flock.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_config(parser)
        parser.add_argument("house", type=_house, help="the house's id")
        parser.add_argument("--flock", help="the flock's id (default: the current one; at placement: its date)")
        parser.add_argument("--by", help="who says so")
        parser.set_defaults(run=_flock_command)
        return parser

    place = action("place", "birds were placed, or correct the facts of the current flock")
    place.add_argument("--placed-on", type=_date, help="the day of placement (default: today)")
    place.add_argument("--birds", dest="birds_placed", type=int, help="how many")
    place.add_argument("--strain", help="ross308, cobb500")
    place.add_argument("--sex", choices=("mixed", "male", "female"))
    place.add_argument("--parent-age-weeks", type=float)
    place.add_argument("--planned-end-on", type=_date, help="the planned slaughter day")
    record = action("record", "the dead and culled birds of one day")
    record.add_argument("--date", type=_date, help="the farm date (default: today)")
    record.add_argument("--dead", type=int, required=True)
    record.add_argument("--culled", type=int, default=0)
    thin = action("thin", "birds were taken out alive, the rest stay")
    thin.add_argument("--birds", type=int, required=True)
    thin.add_argument("--at", type=instant, help="when (default: now)")
    state = action("state", "what goes on in the house")
    state.add_argument("state", choices=("empty", "preheat", "active", "catching", "thinned", "washing"))
    end = action("end", "the birds are gone")
    end.add_argument("--at", type=instant, help="when (default: now)")
    end.add_argument("--slaughter-weight-g", type=float, help="the mean live weight at slaughter")
    service = action("service", "somebody is at a sensor: what it says meanwhile is not believed")
    service.add_argument("signal", help="the sensor, such as ammonia or temperature-2")
    service.add_argument("--for-s", type=int, required=True, metavar="SECONDS", help="0 to 604800")
    service.add_argument("--replaced", action="store_true", default=None, help="it is a new one")
    listing = actions.add_parser("list", help="list the flocks")
    add_config(listing)
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_flock_list)


_NOT_SENT = {"verb", "config", "house", "rule", "run", "json"}


def _flock_command(arguments: argparse.Namespace) -> int:
    from agent.commands import parse_flock_command  # noqa: PLC0415  # as above

    config = load_config(arguments.config)
    command = _command_of(arguments)
    try:
        parse_flock_command(command)  # what is wrong is said here, not by a queued command hours later
    except InputError as e:
        message = f"flock {arguments.action}: {e}"
        raise UsageError(message) from e
    value = _asked(config, arguments.house, "flock", command)
    if value is None:
        return 1
    flock = f", flock {value['flock']}" if value.get("flock") else ""
    print(f"{arguments.house}: {value['done']} done; the house is {value['state']}{flock}")
    if value.get("note"):
        print(f"{arguments.house}: note: {value['note']}")
    return 0


def _command_of(arguments: argparse.Namespace) -> str:
    """Return the JSON of the command that was typed, with an id of its own."""
    said = {key: value for key, value in vars(arguments).items() if key not in _NOT_SENT and value is not None}
    return json.dumps({"id": uuid.uuid4().hex, **said}, default=lambda value: value.isoformat())


def _asked(
    config: Config,
    house: str,
    what: str,
    command: str,
    *,
    within_s: float = ANSWER_WITHIN_S,
    answers: str = "response",
) -> dict[str, Any] | None:
    """Give the agent a command of a house; return its answer, None where there is none or it says no, which is told.

    ``answers``: what the answer's topic ends in; a refusal is always a ``response``.

    Raises:
        BrokerError: no broker, so nothing is done.
    """
    from agent.bus import ask  # noqa: PLC0415  # as above

    root = f"{config.mqtt.topic_prefix}/{config.site.id}/{house}/{what}"
    try:
        answer = ask(
            config.mqtt,
            f"flockwatch-cli-{uuid.uuid4().hex[:12]}",
            f"{root}/command",
            command.encode(),
            answer_topic=f"{root}/{'+' if answers != 'response' else answers}",
            is_answer=lambda payload: _is_answer(payload, json.loads(command)["id"], answers),
            timeout_s=within_s,
        )
    except BrokerError as e:
        message = f"no broker, nothing done: {e}"
        raise BrokerError(message) from e
    if answer is None:
        message = "queued, the agent is not running: the broker gives it the command when it is back"
        print(f"flockwatch: {message}", file=sys.stderr)
        return None
    value: dict[str, Any] = json.loads(answer)
    if not value.get("ok", True):
        print(f"flockwatch: {house}: {value['error']}", file=sys.stderr)
        return None
    return value


def _id_in(payload: bytes) -> object:
    """Return the id of an answer; None for what is none."""
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return answer.get("id") if isinstance(answer, dict) else None


def _is_answer(payload: bytes, command_id: str, answers: str) -> bool:
    """Tell whether a payload is what is waited for: neither the command itself, nor that it was begun."""
    if _id_in(payload) != command_id:
        return False
    document = json.loads(payload)
    return document.get("ok") is False or ("ok" if answers == "response" else "passed") in document


def _flock_list(arguments: argparse.Namespace) -> int:
    from agent.status import flock_lines, flock_values  # noqa: PLC0415  # as above

    values = flock_values(load_config(arguments.config))
    print(json.dumps(values, indent=2) if arguments.json else "\n".join(flock_lines(values)))
    return 0


# --- warning, model ---------------------------------------------------------------------------------------------------


def _add_warning(subparsers: Subparsers) -> None:
    warning = subparsers.add_parser("warning", help="look at the warnings, and answer them")
    actions = warning.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the warnings that stand")
    add_config(listing)
    listing.add_argument("--all", action="store_true", help="also the latest of each rule that is over")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_warning_list)

    def action(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_config(parser)
        parser.add_argument("house", type=_house, help="the house's id")
        parser.add_argument("rule", type=_rule, help="the rule, as `warning list` shows it, such as deviation-water")
        parser.set_defaults(run=run)
        return parser

    show = action("show", "all that is known of a rule's last change", _warning_show)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument("--lang", choices=LANGUAGES, help="its text in this language (default: as it was told)")
    shelve = action("shelve", "put a warning aside for a time", _warning_command)
    shelve.add_argument("--for-s", type=int, required=True, metavar="SECONDS", help="60 s to 7 days (604800)")
    shelve.add_argument("--why", help="what for")
    confirm = action("confirm", "the last warning of a rule was right, also one that is over", _warning_command)
    confirm.add_argument("--cause", help="what it was")
    others = (
        action("acknowledge", "somebody has seen it", _warning_command),
        action("unshelve", "take a warning back from the shelf", _warning_command),
        action("reject", "the last warning of a rule was wrong, also one that is over", _warning_command),
    )
    for parser in (shelve, confirm, *others):
        parser.add_argument("--by", help="who says so")
        parser.add_argument("--json", action="store_true", help="print the agent's answer as JSON")
    stats = actions.add_parser("stats", help="what the warnings of the last days came to")
    add_config(stats)
    stats.add_argument("--days", type=_whole, default=30, help="how many (default: %(default)s)")
    form = stats.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--metrics", action="store_true", help="print the text format of Prometheus")
    stats.set_defaults(run=_warning_stats)


def _warning_show(arguments: argparse.Namespace) -> int:
    from agent.status import warning_value, warning_words  # noqa: PLC0415  # as above

    value = warning_value(load_config(arguments.config), arguments.house, arguments.rule, arguments.lang)
    if value is None:
        print(f"flockwatch: {arguments.house}: no warning {arguments.rule!r} ever rose here", file=sys.stderr)
        return 1
    print(json.dumps(value, indent=2) if arguments.json else "\n".join(warning_words(value)))
    return 0


def _warning_command(arguments: argparse.Namespace) -> int:
    from agent.commands import parse_warning_command  # noqa: PLC0415  # as above

    config = load_config(arguments.config)
    command = _command_of(arguments)
    try:
        parse_warning_command(command)
    except InputError as e:
        message = f"warning {arguments.action}: {e}"
        raise UsageError(message) from e
    value = _asked(config, arguments.house, f"warning/{arguments.rule}", command)
    if value is None:
        return 1
    if arguments.json:
        print(json.dumps(value))
        return 0
    state = f"; it is {value['state']}" if "state" in value else f": {value['warning']}"
    print(f"{arguments.house}: {arguments.rule}: {arguments.action} done{state}")
    return 0


def _warning_stats(arguments: argparse.Namespace) -> int:
    from agent.tally import metrics_lines, tally, tally_lines  # noqa: PLC0415  # as above

    value = tally(load_config(arguments.config), arguments.days)
    lines = metrics_lines if arguments.metrics else tally_lines
    print(json.dumps(value, indent=2) if arguments.json else "\n".join(lines(value)))
    return 0


def _rules(arguments: argparse.Namespace) -> int:
    from agent.effective import rule_lines, rules_in_force  # noqa: PLC0415  # as above

    config = load_config(arguments.config)
    houses = [house.id for house in config.house]
    if arguments.house is not None and arguments.house not in houses:
        message = f"--house: {arguments.house!r} is not in the configuration; there are {', '.join(houses) or 'none'}"
        raise UsageError(message)
    rules = rules_in_force(config, houses if arguments.house is None else [arguments.house])
    if arguments.json:
        print(json.dumps([one.value() for one in rules], indent=2))
    else:
        print("\n".join(rule_lines(rules) or ["no house is configured: add [[house]]"]))
    return 0


def _warning_list(arguments: argparse.Namespace) -> int:
    from agent.status import warning_lines, warning_values  # noqa: PLC0415  # as above

    values = warning_values(load_config(arguments.config), everything=arguments.all)
    print(json.dumps(values, indent=2) if arguments.json else "\n".join(warning_lines(values)))
    return 0


def _add_model(subparsers: Subparsers) -> None:
    model = subparsers.add_parser("model", help="look at model bundles")
    actions = model.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="list the bundles in use and on trial, how they do, and how they fit each house"
    )
    add_config(listing)
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_model_list)
    check = actions.add_parser(
        "check", help="try a bundle in a process of its own: files, hash, shapes, self-test, time, memory"
    )
    check.add_argument("directory", type=Path, metavar="DIR")
    check.set_defaults(run=_model_check)
    trial = actions.add_parser("trial", help="play this farm's history through a bundle, beside the one in use")
    add_config(trial)
    trial.add_argument("directory", type=Path, metavar="DIR", help="the bundle, <name>/<version>")
    trial.add_argument("--days", type=_whole, default=28, help="how much history (default: %(default)s)")
    trial.add_argument("--houses", type=_house, nargs="+", default=[], metavar="HOUSE", help="only these")
    trial.add_argument("--json", action="store_true", help="print JSON")
    trial.set_defaults(run=_model_trial)


def _model_list(arguments: argparse.Namespace) -> int:
    from agent.status import model_lines, model_values  # noqa: PLC0415  # as above

    config = load_config(arguments.config)
    values = model_values(config)
    print(json.dumps(values, indent=2) if arguments.json else "\n".join(model_lines(values)))
    return 1 if any(value["state"] == "refused" for value in values) else 0


def _model_trial(arguments: argparse.Namespace) -> int:
    from agent.trial import trial, trial_lines  # noqa: PLC0415  # as above

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    config = load_config(arguments.config)
    value = trial(config, arguments.directory, days=arguments.days, houses=arguments.houses, say=say)
    print(json.dumps(value, indent=2) if arguments.json else "\n".join(trial_lines(value)))
    return 1 if value["failed"] else 0


def _model_check(arguments: argparse.Namespace) -> int:
    from agent.bundles import load_bundle  # noqa: PLC0415  # as above
    from agent.probe import rehearse  # noqa: PLC0415

    load_bundle(arguments.directory)  # what is wrong with the files is said by name, also where no process can be begun
    tried = rehearse(arguments.directory)
    print(
        f"{tried.bundle}: fine; hash, shapes and self-test are right; {tried.run_ms:g} ms for {tried.houses} houses, "
        f"{tried.memory_mb:g} MB"
    )
    return 0


# --- words to values --------------------------------------------------------------------------------------------------


def _house(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        message = f"{text!r} is no house: use the id from agent.toml, of letters, digits, - and _"
        raise argparse.ArgumentTypeError(message)
    return text


def _rule(text: str) -> str:
    from agent.rules import KINDS  # noqa: PLC0415  # only who answers a warning needs them

    if text.partition("-")[0] not in KINDS or not re.fullmatch(NAME_PATTERN, text):
        message = f"{text!r} is no rule: a kind ({', '.join(KINDS)}), or one and its signal, such as deviation-water"
        raise argparse.ArgumentTypeError(message)
    return text


def _whole(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 3_660:
        message = f"{text!r} is no number of days from 1 to 3660"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_LISTEN_S:
        message = f"{text!r} is no number of seconds above 0, up to {LONGEST_LISTEN_S}"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as e:
        message = f"{text!r} is no date; write it as 2026-11-22"
        raise argparse.ArgumentTypeError(message) from e


def instant(text: str) -> datetime:
    """Return the time that an argument names; for argparse.

    Raises:
        argparse.ArgumentTypeError: it names none, or has no zone.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as e:
        message = f"{text!r} is no time; write it as 2026-11-22T14:30:00Z"
        raise argparse.ArgumentTypeError(message) from e
    if at.tzinfo is None:
        message = f"{text!r} has no zone; end it in Z or +01:00"
        raise argparse.ArgumentTypeError(message)
    return at
