"""Bundles on trial: live they speak apart, and nobody hears it; over a farm's history they are held together."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.cli import main
from agent.commands import parse_flock_command
from agent.config import Config
from agent.daemon import Agent, shadow_of
from agent.dialects import Decoder
from agent.domain import (
    About,
    Event,
    Evidence,
    Flock,
    FlockChange,
    HouseState,
    Reason,
    SeriesKey,
    Severity,
    Standing,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.errors import BundleError, InputError, UsageError
from agent.predict import Predictor
from agent.readings import Readings
from agent.shadow import SLOW_RUNS, Shadows
from agent.status import model_values
from agent.store import STREAMS, Store, StoreReader
from agent.trial import trial
from agent.watch import HouseWatch, Outcome
from sync.outbox import Outbox
from tests.unit.test_daemon import Site
from tests.unit.test_watch import MANIFEST, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.bus import Bus

BLIND = MANIFEST.replace("judge = { low = 3.0, high = 3.0 }", "judge = { low = 1000.0, high = 1000.0 }")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a bundle that never warns, and one of the next version that does."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder / "usual" / "1.0.0", BLIND)
    write_bundle(folder / "usual" / "1.1.0", MANIFEST.replace("1.0.0", "1.1.0"))
    return folder


def replaced(config: Config, shadow: str) -> Config:
    """Return the configuration with a bundle on trial."""
    return config.model_copy(update={"models": config.models.model_copy(update={"shadow": (shadow,)})})


def watch_of(config: Config, shadow: Predictor) -> HouseWatch:
    """Return what watches house1 without models of its own."""
    return HouseWatch(
        "house1",
        signal=config.signal,
        days=config.site.days,
        manifests=[],
        overrides={},
        rhythm_s=lambda _: None,
        started_monotonic=0.0,
        also=shadow.signals,
    )


class Farm(Site):
    """An agent with a bundle in use and one on trial; a message each ten minutes."""

    def start(self) -> None:
        stack = self._stack = ExitStack()
        self.store = stack.enter_context(Store.open(self.config.data.house_db))  # type: ignore[assignment]  # the real one
        used = [load_bundle(cast("Path", self.config.models.directory) / self.config.models.use[0])]
        predictor = Predictor.load(used, self.config.site.days)
        shadow, self.refused = shadow_of(self.config, used)
        decoder = Decoder(self.config)
        self.agent = Agent(self.config, self.clock, self.store, cast("Bus", self.bus), predictor, decoder, shadow)

    def hours(self, count: float, water: float) -> None:
        for _ in range(round(6 * count)):
            for minute in range(2):
                at = self.clock.at + timedelta(minutes=5 * (minute + 1))
                value = {"at": at.isoformat(), "water": water, "temperature": 21 + 0.1 * (self._mid % 7)}
                self.agent.turn_or_hold([self.message("skov/farm1/house1", value)])
            self.clock.wait(600)
            self.agent.turn_or_hold([])


@pytest.fixture
def farm(tmp_path: Path, models: Path) -> Iterator[Farm]:
    settings = {"directory": models, "use": ["usual/1.0.0"], "shadow": ["usual/1.1.0"]}
    farm = Farm(tmp_path / "data", {"models": settings, "house": [{"id": "house1"}]})
    farm.ask({"id": "p", "action": "place", "flock": "A1", "placed_on": "2026-03-10", "birds_placed": 10_000})
    yield farm
    farm.close()


def test_a_shadow_warns_apart_and_nobody_hears_of_it(farm: Farm) -> None:
    farm.hours(50, 50.0)
    farm.hours(3, 25.0)
    said = farm.rows("shadow_warnings")
    assert "active" in [s for s, rule in zip(said["state"], said["rule"], strict=True) if rule == "deviation-water"]
    assert set(said["model_version"]) == {"1.1.0"}
    assert not [rule for rule in farm.rows("warnings")["rule"] if rule.startswith(("deviation", "trend"))]
    assert not [topic for topic, _, _ in farm.bus.published if "/warning/" in topic]
    assert farm.bus.on("flockwatch/farm1/house1/severity")[-1] == 0
    assert "1.1.0" in str(farm.bus.on("flockwatch/farm1/health")[-1]["shadow"])


def test_a_shadows_warning_survives_a_restart_and_is_not_raised_twice(farm: Farm) -> None:
    farm.hours(50, 50.0)
    farm.hours(3, 25.0)
    farm.restart()
    farm.hours(2, 25.0)
    said = farm.rows("shadow_warnings")
    raised = [i for i, s, rule in zip(said["id"], said["state"], said["rule"], strict=True)
              if s == "active" and rule == "deviation-water"]  # fmt: skip
    assert len(set(raised)) == 1
    moves = list(zip(said["before"], said["state"], strict=True))
    assert moves.count(("pending", "active")) == 1
    assert ("normal", "active") not in moves  # what else is told of it is that it became worse


def test_only_warnings_of_its_own_models_are_a_shadows(farm: Farm) -> None:
    farm.hours(50, 50.0)
    farm.clock.wait(7200)  # everything is silent
    farm.agent.turn_or_hold([])
    assert "silent" in farm.rows("warnings")["rule"]
    assert "silent" not in farm.rows("shadow_warnings")["rule"]


def test_how_models_fit_is_kept_and_shown_of_those_on_trial_too(
    farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    farm.hours(49, 50.0)
    with StoreReader.open(farm.config.data.house_db) as reader:
        fits = {fit.model: fit for fit in reader.fitness()}
    assert set(fits) == {"usual/1.0.0", "usual/1.1.0"}
    assert fits["usual/1.0.0"].held == fits["usual/1.1.0"].held
    toml = tmp_path / "agent.toml"
    models = farm.config.models
    toml.write_text(
        f'[data]\ndirectory = "{farm.config.data.directory}"\n[models]\ndirectory = "{models.directory}"\n'
        'use = ["usual/1.0.0"]\nshadow = ["usual/1.1.0"]\n'
    )
    assert main(["model", "list", "--config", str(toml)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.endswith("on trial") for line in shown if line.startswith("usual/")] == [False, True]
    assert "  house1, flock A1: drift not known" in shown[1]
    assert main(["model", "list", "--json", "--config", str(toml)]) == 0
    assert [value["shadow"] for value in json.loads(capsys.readouterr().out)] == [False, True]
    assert main(["check", "--json", "--config", str(toml)]) == 1  # no broker
    assert "usual/1.1.0 loads and passes its self-test" in capsys.readouterr().out


def test_model_list_says_how_a_shadow_does_and_why_it_runs_no_more(farm: Farm) -> None:
    farm.hours(2, 50.0)
    _, on_trial = model_values(farm.config)
    assert (on_trial["shadow"], on_trial["state"]) == (True, "ok")
    assert on_trial["runs"]["runs"] >= 12
    farm.agent.shadow.models[0].note("house2", "output 'water' holds NaN or infinity")
    farm.hours(1, 50.0)
    assert model_values(farm.config)[1]["why"] == "house2: output 'water' holds NaN or infinity"
    farm.agent.shadows.dropped["usual/1.1.0"] = "it was let go: a run took 900 ms, max_runtime_ms is 200, 20 times"
    farm.hours(1, 50.0)
    in_use, on_trial = model_values(farm.config)
    assert (on_trial["state"], on_trial["why"]) == ("set_aside", farm.agent.shadows.dropped["usual/1.1.0"])
    assert (in_use["state"], in_use["why"]) == ("ok", None)


def test_a_shadow_is_told_of_the_dead_as_the_watch_beside_it_is(tmp_path: Path) -> None:
    config = Config.model_validate({"data": {"directory": tmp_path}, "house": [{"id": "house1"}]})
    predictor, _ = shadow_of(replaced(config, "mortality/1.0.0"), [])
    watch = watch_of(config, predictor)
    shadows = Shadows(config, predictor, [watch])
    at = datetime(2026, 3, 20, 12, tzinfo=UTC)
    placed = parse_flock_command('{"action": "place", "flock": "A1", "placed_on": "2026-03-10", "birds_placed": 10000}')
    watch.apply(placed, at - 10 * DAY)
    for day in range(1, 10):
        told = {"action": "record", "date": f"2026-03-{10 + day}", "dead": 10 + day}
        watch.apply(parse_flock_command(json.dumps(told)), at)
    watch.judge([], at, 0.0)
    shadows.judge(at, 0.0)
    due = predictor.due(at)[0]
    fed = [dict(one.features(due, at)[0][1].tensors) for one in (watch, shadows.watches[0])]
    assert np.count_nonzero(np.isfinite(fed[0]["facts"])) > 8
    np.testing.assert_array_equal(fed[1]["facts"], fed[0]["facts"])


def test_an_early_warning_of_a_shadow_ends_in_its_own_words_too(tmp_path: Path) -> None:
    """When it is over, or the outbreak is there, the evidence is the plain count, and names no model."""
    config = Config.model_validate({"data": {"directory": tmp_path}, "house": [{"id": "house1"}]})
    predictor, _ = shadow_of(replaced(config, "mortality/1.0.0"), [])
    [shadow] = Shadows(config, predictor, [watch_of(config, predictor)]).watches
    plain = Evidence(0.4, actual=9.0, expected=12.0)
    over = Standing("mortality", "house1", WarningState.NORMAL, id="1", evidence=plain)
    assert shadow.own(Outcome("house1", datetime(2026, 3, 20, tzinfo=UTC), standings=(over,))).standings == (over,)


def test_a_scorer_of_single_readings_is_no_shadow_and_it_is_said(tmp_path: Path) -> None:
    config = Config.model_validate({"data": {"directory": tmp_path}, "house": [{"id": "house1"}]})
    predictor, refused = shadow_of(replaced(config, "anomaly/1.0.0"), [])
    assert predictor.models == ()
    assert "scores single readings" in refused["anomaly/1.0.0"]


def test_what_is_in_use_cannot_be_on_trial_and_of_each_task_there_is_one(models: Path) -> None:
    settings = {"directory": models, "use": ["usual/1.0.0"], "shadow": ["usual/1.0.0"]}
    config = Config.model_validate({"models": settings})
    used = [load_bundle(models / "usual/1.0.0")]
    predictor, refused = shadow_of(config, used)
    assert predictor.models == ()
    assert "it is in use" in refused["usual/1.0.0"]
    twice = Config.model_validate({"models": {**settings, "use": [], "shadow": ["usual/1.0.0", "usual/1.1.0"]}})
    predictor, refused = shadow_of(twice, [])
    assert [str(model) for model in predictor.models] == ["usual/1.0.0"]
    assert "one at a time" in refused["usual/1.1.0"]


def test_a_shadow_that_is_slow_again_and_again_is_let_go(models: Path) -> None:
    config = Config.model_validate({"house": [{"id": "house1"}]})
    predictor = Predictor.load([load_bundle(models / "usual/1.1.0")], config.site.days)
    predictor.models[0].counters.slow = SLOW_RUNS
    watch = HouseWatch(
        "house1",
        signal=config.signal,
        days=config.site.days,
        manifests=[],
        overrides={},
        rhythm_s=lambda _: None,
        started_monotonic=0.0,
    )
    shadows = Shadows(config, predictor, [watch])
    at = datetime(2026, 3, 10, tzinfo=UTC)
    assert len(shadows.judge(at, 0.0)) == 1
    assert "was let go" in shadows.dropped["usual/1.1.0"]
    assert shadows.judge(at + HOUR, 0.0) == []


# --- a trial over history

BEGIN = datetime(2026, 3, 10, tzinfo=UTC)
KEYS = (SeriesKey("house1", "water"), SeriesKey("house1", "temperature"))
DRY_FROM, DRY_TO = 5 * 24 * 12, 5 * 24 * 12 + 12 * 12  # of five minutes
STEPS = 7 * 24 * 12


def history(days: range) -> Readings:
    """Return water and temperature each five minutes of some days; on the sixth the house drinks half for a while."""
    step = np.repeat(np.arange(days[0] * 288, (days[-1] + 1) * 288), 2)
    key = np.tile(np.arange(2, dtype=np.int32), len(step) // 2)
    dry = (step >= DRY_FROM) & (step < DRY_TO)
    water = np.where(dry, 25.0, 50.0 + 0.01 * (step % 3))
    value = np.where(key == 0, water, 21 + 0.1 * (step % 7))
    at_ms = to_ms(BEGIN) + (step + 1) * 300_000
    zeros = np.zeros(len(step), np.uint8)
    return Readings(KEYS, key, at_ms, value.astype(np.float64), zeros, zeros, at_ms)


@pytest.fixture
def config(tmp_path: Path, models: Path) -> Config:
    """Give a farm with a week of history, five days of it sealed, and one warning that people rejected."""
    directory = tmp_path / "data"
    config = Config.model_validate(
        {
            "data": {"directory": directory},
            "house": [{"id": "house1"}, {"id": "house2"}],
            "models": {"directory": models, "use": ["usual/1.0.0"]},
        }
    )
    flock = Flock("house1", "A1", date(2026, 3, 10), 10_000, "ross308")
    raised_at = BEGIN + 5 * DAY + HOUR
    standing = Standing("deviation-water", "house1", WarningState.ACTIVE, Severity.MINOR, "w1", "A1", raised_at,
                        raised_at=raised_at, updated_at=raised_at)  # fmt: skip
    event = WarningEvent(raised_at, WarningState.PENDING, standing, Reason.ON_DELAY_OVER, About.BIRDS, "water", 5,
                         "dry", (), "")  # fmt: skip
    label = {"label": "reject", "warning": "w1", "rule": "deviation-water", "flock": "A1", "by": "Anna"}
    with Store.open(config.data.house_db) as store:
        store.record(flock_changes=[FlockChange(BEGIN, "place", "house1", HouseState.ACTIVE, flock, {"by": None})])
        store.append(history(range(5)), at_ms=to_ms(BEGIN + 5 * DAY))
        with (
            StoreReader.open(config.data.house_db) as reader,
            Outbox.open(config.data.sync_db, config.data.lake, reader, "farm1") as outbox,
        ):
            for stream in STREAMS:
                while outbox.unsealed(stream):
                    outbox.seal_next(stream, reader.last_seq(stream), 1)
        store.append(history(range(5, 7)), at_ms=to_ms(BEGIN + 7 * DAY))
        store.record(
            warnings=[event],
            events=[Event(raised_at + HOUR, "label", "house1", "water", raised_at, None, {**label})],
            judged_at=BEGIN + 7 * DAY,
        )
    return config


def tried(config: Config, candidate: Path, **wanted: Any) -> dict[str, Any]:  # noqa: ANN401  # days, houses
    said: list[str] = []
    value = trial(config, candidate, days=wanted.get("days", 6), houses=wanted.get("houses", ()), say=said.append)
    assert said
    return value


def test_a_trial_says_what_a_candidate_would_have_warned_of(config: Config, models: Path) -> None:
    value = tried(config, models / "usual" / "1.1.0")
    assert value["incumbent"] == "usual/1.0.0"
    assert value["readings"] == 7 * 288 * 2
    [gained] = [one for one in value["warnings"]["gained"] if one["rule"] == "deviation-water"]
    assert gained["raised_at"].startswith("2026-03-15T0")
    assert gained["label"] == "reject"  # what people said of it when it was live
    assert value["warnings"]["lost"] == []
    assert value["gaps"] == ["house2: no readings on 7 of 7 days (2026-03-11 to 2026-03-17)"]
    assert value["failed"] is None


def test_a_trial_the_other_way_round_loses_them(config: Config, models: Path) -> None:
    other = config.model_copy(update={"models": config.models.model_copy(update={"use": ("usual/1.1.0",)})})
    value = tried(other, models / "usual" / "1.0.0", houses=["house1"])
    assert "deviation-water" in [one["rule"] for one in value["warnings"]["lost"]]
    assert value["warnings"]["gained"] == []
    assert value["gaps"] == []


def test_a_trial_tells_by_how_much_a_warning_moves(config: Config, models: Path, tmp_path: Path) -> None:
    later = MANIFEST.replace('version = "1.0.0"', 'version = "1.2.0"').replace("low = 3.0", "low = 7.0")
    write_bundle(tmp_path / "usual" / "1.2.0", later)
    other = config.model_copy(update={"models": config.models.model_copy(update={"use": ("usual/1.1.0",)})})
    value = tried(other, tmp_path / "usual" / "1.2.0", houses=["house1"])
    [changed] = [one for one in value["warnings"]["changed"] if one["rule"] == "deviation-water"]
    assert 600 <= changed["later_by_s"] <= 7200


def test_a_trial_says_what_is_wrong(config: Config, models: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="in use already"):
        tried(config, models / "usual" / "1.0.0")
    with pytest.raises(UsageError, match="'house9' is not in the configuration"):
        tried(config, models / "usual" / "1.1.0", houses=["house9"])
    with pytest.raises(BundleError, match="scores single readings"):
        tried(config, find_bundle(shipped_directory(), "anomaly"))
    with pytest.raises(InputError, match="holds no readings of house2"):
        tried(config, models / "usual" / "1.1.0", houses=["house2"])


def test_a_trial_by_the_command_line(
    config: Config, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "agent.toml"
    toml.write_text(
        f'[data]\ndirectory = "{config.data.directory}"\n[models]\ndirectory = "{models}"\nuse = ["usual/1.0.0"]\n'
        '[[house]]\nid = "house1"\n'
    )
    words = ["model", "trial", str(models / "usual" / "1.1.0"), "--days", "3", "--config", str(toml)]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "gained   2026-03-15" in told.out
    assert "people rejected it" in told.out
    assert "no slaughter weight is known" in told.out
    assert "day 7 of 8" in told.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidate"] == "usual/1.1.0"
