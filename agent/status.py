"""What ``status``, ``flock list`` and ``warning list`` show, read from the databases; the agent need not run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent.alerts import iso
from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.domain import PUBLISHED_STATES, Severity, WarningState, from_ms
from agent.errors import BundleError, StoreError
from agent.explain import reworded
from agent.rules import KINDS, kind_of, rule_of
from agent.store import STREAMS, StoreReader, sealed_watermarks, sync_notes
from agent.wear import WearMeter, card_years

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.config import Config
    from agent.fitness import FitFlock

FLOCKS_SHOWN = 6  # whose slaughter weight is known: a year's
FAR_STRETCHED = 1.5  # our judgement: a band that much wider than the model's own tells that the house is another
CLOCKS_SHOWN = 20  # the last ones; nearly always there are one or two
_WATCHED = ("readings", "warnings", "predictions")


def status_value(config: Config) -> dict[str, Any]:
    """Return the state of an installation as plain values, ready for JSON.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        sealed = sealed_watermarks(config.data.sync_db, reader.generation)
        last = {stream: reader.last_seq(stream) for stream in STREAMS}
        size = sum(path.stat().st_size for path in config.data.directory.glob("house.db*"))
        lake = (
            [path.stat().st_size for path in config.data.lake.rglob("*.parquet")] if config.data.lake.exists() else []
        )
        notes = sync_notes(config.data.sync_db)
        return {
            "site": config.site.id,
            "gateway": reader.gateway,
            "health": reader.health(),
            "clocks": [{**clock.value(), "from_seq": clock.first_seq} for clock in reader.clocks()[-CLOCKS_SHOWN:]],
            "counts": reader.counts(),
            "database_mb": round(size / 1e6, 2),
            "lake_objects": len(lake),
            "lake_mb": round(sum(lake) / 1e6, 3),
            "full": notes.get("full"),
            "wear": _wear(reader, notes, config.store.card_tbw),
            "unsealed": {stream: last[stream] - sealed.get(stream, 0) for stream in STREAMS}
            if sealed is not None
            else None,
            "houses": _houses(reader),
            "warnings": _warnings(reader, everything=False),
            "predictions": _predictions(reader),
            "models": fitness_values(config),
            "rejected": [
                {
                    "at": iso(from_ms(rejected.received_ms)),
                    "topic": rejected.topic,
                    "reason": rejected.reason,
                    "first_bytes": rejected.first_bytes[:40].decode("utf-8", "replace"),
                }
                for rejected in reader.rejected(5)
            ],
        }


def _wear(reader: StoreReader, notes: Mapping[str, str], card_tbw: float) -> dict[str, Any]:
    agent, sync = reader.wear(), WearMeter.restored(notes.get("wear")).bytes_per_day()
    whole = None if agent is None else agent + (sync or 0.0)
    return {
        "agent_mb_per_day": _mb(agent),
        "sync_mb_per_day": _mb(sync),
        "card_tbw": card_tbw,
        "card_years": None if whole is None else round(card_years(whole, card_tbw), 1),
    }


def _mb(size: float | None) -> float | None:
    return None if size is None else round(size / 1e6, 1)


def _houses(reader: StoreReader) -> dict[str, Any]:
    return {
        house: {"state": change.state.value, "flock": None if change.flock is None else change.flock.flock}
        for house, change in sorted(reader.houses().items())
    }


def _predictions(reader: StoreReader) -> list[dict[str, Any]]:
    newest: dict[tuple[str, str, str], Any] = {}
    for made in reader.predictions_latest():
        newest[made.house, made.target, made.horizon] = made
    return [
        {
            "house": made.house,
            "flock": made.flock,
            "target": made.target,
            "horizon": made.horizon,
            "target_at": iso(made.target_at),
            "p10": made.p10,
            "p50": made.p50,
            "p90": made.p90,
            "made_at": iso(made.made_at),
        }
        for made in newest.values()
    ]


def _warnings(reader: StoreReader, *, everything: bool) -> list[dict[str, Any]]:
    shown = {state.value for state in PUBLISHED_STATES}
    latest = reader.warnings_latest()
    chosen = [w for w in latest if w["state"] in shown or (everything and w["id"] is not None)]
    return [{**w, "at": iso(from_ms(w["at"]))} for w in chosen]


def warning_values(config: Config, *, everything: bool) -> list[dict[str, Any]]:
    """Return the warnings that stand (or the latest of every rule that ever rose), the worst first.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        found = _warnings(reader, everything=everything)
    return sorted(found, key=lambda w: (w["state"] == WarningState.NORMAL.value, -w["severity"], w["at"]))


def warning_value(config: Config, house: str, rule: str, language: str | None = None) -> dict[str, Any] | None:
    """Return the newest transition of a rule, with all its words; None where it never had one.

    ``language``: the words are made anew in this one, from what is known of where the rule stands.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        latest = [w for w in reader.warnings_latest() if (w["house"], w["rule"]) == (house, rule)]
        standings = [s for s in reader.standings() if (s.house, s.rule) == (house, rule)] if language else []
    if not latest:
        return None
    for standing in (
        standings if kind_of(rule) in KINDS else ()
    ):  # what is wrong with the gateway is kept as it was told
        found = rule_of(rule, config.overrides_of(house), latest[0]["day_number"], house_computer=True)
        is_latching = found is not None and found.latching
        locale = config.locale(house, language)
        words = reworded(latest[0], standing, config.called(house), locale, is_latching=is_latching)
        if words is not None:
            latest[0] |= {"text": words.text, "check_first": words.check_first, "lang": language}
    times = {name: iso(from_ms(latest[0][name])) if latest[0][name] else None for name in ("at", "since", "raised_at")}
    return {**latest[0], **times, "causes": json.loads(latest[0]["causes"])}


def fitness_values(config: Config) -> list[dict[str, Any]]:
    """Return how each model fits each house: of the newest flock, and the slaughter weights of all.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        known = reader.fitness()
    newest = {(fit.model, fit.house): fit for fit in known}  # they come oldest first
    return [
        {
            "model": model,
            "house": house,
            "flock": fit.flock,
            "drift": fit.drift,
            "drifted": fit.drifted,
            "coverage": {
                band: {"share": round(inside / n, 3), "counted": n} for band, (n, inside, *_) in fit.held.items() if n
            },
            "off": fit.off,
            "stretch": fit.bands,
            "slaughter": [_scored(one) for one in known if (one.model, one.house) == (model, house) and one.truth_g],
        }
        for (model, house), fit in sorted(newest.items())
    ]


def _scored(fit: FitFlock) -> dict[str, Any]:
    truth_g = fit.truth_g or 1.0
    predicted = [
        {
            "lead_days": score.lead_days,
            "p50": round(score.p50, 1),
            "error_pct": round(100 * (score.p50 / truth_g - 1), 2),
            "inside": score.p10 <= truth_g <= score.p90,
        }
        for score in sorted(fit.scores, key=lambda score: score.lead_days)
    ]
    return {"flock": fit.flock, "slaughter_weight_g": fit.truth_g, "predicted": predicted}


def fitness_lines(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how models fit their houses for people, a house or two lines each."""
    lines = []
    for value in values:
        worst = max(value["drift"].values(), default=None)
        drift = "drift not known" if worst is None else f"drift {worst:g} at most"
        if value["drifted"]:
            named = ", ".join(f"{c} {value['drift'][c]:g} (limit {limit:g})" for c, limit in value["drifted"].items())
            drift = f"DRIFTED: {named}"
        held = ", ".join(
            f"{band} {of['share']:.0%} of {of['counted']}" + (" (OFF)" if band in value["off"] else "")
            for band, of in value["coverage"].items()
        )
        lines.append(
            f"  {value['house']}, flock {value['flock']}: {drift}" + (f"; within p10 to p90: {held}" if held else "")
        )
        far = [
            f"{band.partition('/')[0]} {max(stretch):.1f} times {'below' if stretch[0] > stretch[1] else 'above'}"
            for band, stretch in value["stretch"].items()
            if max(stretch) > FAR_STRETCHED
        ]
        if far:
            lines.append(f"  {value['house']}: bands much wider here than in training: {', '.join(far)}")
        for flock in value["slaughter"][-FLOCKS_SHOWN:]:
            errors = ", ".join(f"{p['lead_days']} d before {p['error_pct']:+.1f} %" for p in flock["predicted"])
            lines.append(
                f"  {value['house']}, flock {flock['flock']}: {flock['slaughter_weight_g']:g} g at slaughter: {errors}"
            )
    return lines


def model_values(config: Config) -> list[dict[str, Any]]:
    """Return the bundles in use and on trial: what each is, how it does, and how it fits each house.

    ``state``: ``ok``, ``set_aside`` (of all houses, or of those named in ``why``), ``refused``, or ``not_run`` yet.
    """
    try:
        with StoreReader.open(config.data.house_db) as reader:
            health = reader.health()
        fits = fitness_values(config)
    except StoreError:  # no agent has run here
        health, fits = {}, []
    shadow = [(wanted, True) for wanted in config.models.shadow]
    return [
        _model_value(config, wanted, health, fits, is_shadow=is_shadow)
        for wanted, is_shadow in [*((wanted, False) for wanted in config.models.use), *shadow]
    ]


def _model_value(
    config: Config, wanted: str, health: Mapping[str, Any], fits: Sequence[Mapping[str, Any]], *, is_shadow: bool
) -> dict[str, Any]:
    value: dict[str, Any] = dict.fromkeys(("bundle", "task", "licence", "directory", "state", "why", "runs"))
    value |= {"bundle": wanted, "state": "not_run", "fitness": [], "shadow": is_shadow}
    try:
        bundle = load_bundle(find_bundle(config.models.directory or shipped_directory(), wanted))
    except BundleError as e:
        return value | {"state": "refused", "why": str(e)}
    manifest = bundle.manifest
    value |= {"bundle": str(bundle), "task": manifest.task, "licence": manifest.licence}
    value |= {"directory": str(bundle.directory), "fitness": [fit for fit in fits if fit["model"] == str(bundle)]}
    counters = health.get("shadow" if is_shadow else "models", {}).get(str(bundle))
    degraded, called = health.get("degraded", {}), "shadow" if is_shadow else "model"
    why = degraded.get(f"{called} {bundle}") or degraded.get(f"{called} {wanted}")
    if counters is not None:
        value |= {"state": "ok" if why is None else "set_aside", "why": why, "runs": counters}
    elif why is not None:  # its files are in order, and still the agent did not take it
        value |= {"state": "refused", "why": why}
    return value


def model_lines(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return bundles for people: a line each, then how it fits the houses."""
    lines = []
    for v in values:
        parts = [v["bundle"], v["task"] or "-", v["licence"] or "-", v["directory"] or "-"]
        if v["state"] in {"refused", "set_aside"}:
            parts.append(v["state"].replace("_", " "))
        if v["runs"] and (v["runs"]["slow"] or v["runs"]["failed"]):
            parts.append(f"of {v['runs']['runs']:,} runs {v['runs']['slow']:,} slow, {v['runs']['failed']:,} failed")
        parts += [v["why"]] if v["why"] else []
        parts += ["on trial"] if v["shadow"] else []
        lines.append("\t".join(parts))
        lines += fitness_lines(v["fitness"])
    return lines or ["no bundle is used"]


def flock_values(config: Config) -> list[dict[str, Any]]:
    """Return every flock, by house and placement.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        flocks = [change.flock for change in reader.flocks() if change.flock is not None]
        states = {house: change.state.value for house, change in reader.houses().items()}
    return [
        {
            "house": flock.house,
            "flock": flock.flock,
            "state": "ended" if flock.ended_at else states.get(flock.house),
            "placed_on": flock.placed_on.isoformat(),
            "birds_placed": flock.birds_placed,
            "strain": flock.strain,
            "planned_end_on": flock.planned_end_on.isoformat() if flock.planned_end_on else None,
            "ended_at": iso(flock.ended_at),
            "slaughter_weight_g": flock.slaughter_weight_g,
            "thinned_birds": flock.thinned_birds,
        }
        for flock in sorted(flocks, key=lambda f: (f.house, f.placed_on))
    ]


def status_lines(value: Mapping[str, Any]) -> list[str]:
    """Return the state of an installation for people."""
    health = value["health"]
    counts = value["counts"]
    lines = [
        f"site {value['site']}, gateway {value['gateway']}",
        (
            f"agent    {health.get('state', 'never ran')}, as of {health.get('at', 'never')}"
            f" (version {health.get('version', '?')}, {health.get('memory_mb', '?')} MB)"
        ),
        f"broker   {_broker(health.get('broker', {}))}",
        f"clock    {_clock(health.get('clock', {}))}",
        (
            f"readings {counts['readings']:,} stored, {counts['series']} series; judged up to "
            f"{iso(from_ms(counts['judged_ms'])) if counts['judged_ms'] else 'nothing yet'}"
        ),
        f"database {value['database_mb']} MB; lake {value['lake_objects']} objects, {value['lake_mb']} MB",
        f"sync     {_unsealed(value['unsealed'])}",
        f"card     {_card(value['wear'])}",
    ]
    if value["full"]:
        lines.append(f"full     {value['full']}")
    lines += [f"degraded {what}: {why}" for what, why in health.get("degraded", {}).items()]
    rejected = sum(health.get("rejected", {}).values())
    if rejected:
        lines.append(f"rejected {rejected:,} since the start: {_counted(health['rejected'])}")
    if health.get("retained_ignored"):
        lines.append(f"ignored  {health['retained_ignored']:,} retained messages on sensor topics")
    if health.get("unknown_signals"):
        lines.append(f"unknown  signals without a unit or limits: {', '.join(health['unknown_signals'])}")
    if health.get("unknown_houses"):
        lines.append(f"unknown  houses that are not configured: {', '.join(health['unknown_houses'])}")
    if health.get("gap_count"):
        silent = ", ".join(f"{gap['house']}/{gap['signal']} since {gap['since']}" for gap in health["gaps"][:5])
        lines.append(f"silent   {health['gap_count']} sensors: {silent}")
    for house, drill in health.get("drills", {}).items():
        failed = "" if drill["passed"] else f"; the last, at {drill['at']}, failed: {drill['reason']}"
        lines.append(f"drill    {house}: passed {drill['passed_at'] or 'never'}{failed}")
    for house, shown in health.get("houses", {}).items():
        flock = f"flock {shown['flock']}, day {shown['day_number']}" if shown["flock"] else "no flock"
        last = shown["last_reading_at"] or "no reading since the start"
        lines.append(f"house    {house}: {shown['state']}, {flock}, last reading {last}")
    lines += [f"warning  {line}" for line in warning_lines(value["warnings"])]
    return lines


def _broker(broker: Mapping[str, Any]) -> str:
    if not broker:
        return "unknown"
    state = "connected" if broker["connected"] else f"not connected: {broker['last_error']}"
    ahead = f"; it sends only {broker['window']} messages ahead: see docs/mqtt.md" if broker.get("window") else ""
    return f"{state}; {broker['received']:,} messages, {broker['connects']} connections{ahead}"


def _clock(clock: Mapping[str, Any]) -> str:
    if not clock:
        return "unknown"
    kept = {True: "kept by NTP", False: "nothing keeps it right", None: "whether NTP keeps it is not known"}
    trust = "trusted" if clock["trusted"] else "not trusted: see docs/time.md"
    step = clock.get("last_step")
    moved = f"; moved by {step['delta_ms'] / 1000:+,.0f} s at {step['at']}: {step['why']}" if step else ""
    correcting = "; readings are being corrected" if clock.get("correcting") else ""
    keeping = f", {kept[clock['synchronised']]}" if "synchronised" in clock else ""
    return f"{clock['presumed']}, {trust}{keeping}{moved}{correcting}"


def _card(wear: Mapping[str, Any]) -> str:
    if wear["card_years"] is None:
        return "what is written in a day is known after ten minutes"
    sync = f" and sync {wear['sync_mb_per_day']} MB" if wear["sync_mb_per_day"] is not None else ""
    return (
        f"the agent writes {wear['agent_mb_per_day']} MB{sync} a day; by that alone, a card for {wear['card_tbw']:g} TB"
        f" lasts {wear['card_years']:,} years"
    )


def _unsealed(unsealed: Mapping[str, int] | None) -> str:
    if unsealed is None:
        return "never sealed: `flockwatch sync` has not run here"
    return ", ".join(f"{unsealed[stream]:,} {stream}" for stream in _WATCHED) + " not sealed yet"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])[:5])


def warning_lines(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings for people, one a line."""
    if not values:
        return ["none stands"]
    return [
        f"{Severity(w['severity']).name.lower():8} {w['state']:12} {w['house']} {w['rule']}: {w['text']}"
        for w in values
    ]


def warning_words(value: Mapping[str, Any]) -> list[str]:
    """Return one warning for people, with all that is known of it."""
    unit = value["unit"] or ""
    figures = f"{value['actual']:g} {unit}".rstrip() if value["actual"] is not None else "not measured"
    if value["expected"] is not None:
        figures += f", expected {value['expected']:g}"
        if value["low"] is not None and value["high"] is not None:
            figures += f" ({value['low']:g} to {value['high']:g})"
        figures += f" {unit}".rstrip()
    causes = [f"{c['cause']}" + (f" ({c['probability']:.0%})" if c["probability"] else "") for c in value["causes"]]
    lines = [
        f"{value['house']} {value['rule']}: {value['state']}, {Severity(value['severity']).name.lower()}",
        value["text"],
        f"since    {value['since'] or 'unknown'}, raised {value['raised_at'] or 'never'}",
        f"changed  {value['at']} ({value['reason']})",
        f"measured {figures}",
    ]
    if causes:
        lines.append(f"causes   {', '.join(causes)}")
    if value["check_first"]:
        lines.append(f"check    {value['check_first']}")
    if value["model"]:
        lines.append(f"model    {value['model']}/{value['model_version']}, coverage {value['coverage'] or 0:.0%}")
    return lines


def flock_lines(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return flocks for people, one a line."""
    lines = [
        f"{v['house']}  {v['flock']}  {v['state']}  placed {v['placed_on']}, {v['birds_placed'] or '?'} birds"
        + (f", {v['thinned_birds']} thinned" if v["thinned_birds"] else "")
        + (f", ended {v['ended_at']}" if v["ended_at"] else f", planned end {v['planned_end_on'] or 'unknown'}")
        for v in values
    ]
    return lines or ["no flock was ever placed"]
