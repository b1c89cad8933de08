"""Home Assistant: what we publish is what a real one takes; what is gone from the farm is gone from it."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.domain import Prediction
from agent.signals import CATALOGUE
from agent.watch import Outcome
from tests.unit.test_daemon import ROOT, START, Site, silent_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parents[1]
HOUSE1 = "homeassistant/device/flockwatch_farm1_house1/config"
HOUSE2 = "homeassistant/device/flockwatch_farm1_house2/config"
SUMMARY = f"{ROOT}/house1/summary"
ON: dict[str, Any] = {"mqtt": {"home_assistant": "homeassistant"}}


@pytest.fixture
def make_home(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Give a function that makes a site that tells Home Assistant, all in the same data folder."""
    sites: list[Site] = []

    def make(config: dict[str, Any] | None = None) -> Site:
        if sites:
            sites[-1].close()
        sites.append(Site(tmp_path / "data", ON if config is None else config))
        return sites[-1]

    yield make
    sites[-1].close()


def full(site: Site) -> None:
    """Let house1 have each signal, a warning, and a prediction."""
    silent_site(site)
    at = site.clock.at.isoformat()
    document = {name: signal.low or 1 for name, signal in CATALOGUE.items()} | {
        "temperature-2": 22.5,
        "odd": 7,
        "at": at,
    }
    site.turn(site.message("skov/farm1/house1", document | {"temperature": 21.25, "water": 100.5}))
    horizons = {"slaughter": START + timedelta(30), "1d": START + timedelta(1)}
    made = tuple(
        Prediction("house1", "f", START, 3, "weight_g", to, name, 1_900, 2_000, 2_100, "weight", "1.0.0", 0.9)
        for name, to in horizons.items()
    )
    site.agent.board.note(Outcome("house1", START, predictions=made))
    site.clock.wait(60)
    site.turn()


def home_assistant() -> Path:
    """Return the Python of a Home Assistant; `make home-assistant` installs one."""
    python = HERE.parent / ".venv-home-assistant" / "bin" / "python"
    if not python.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{python} is missing, and CI must not do without; make home-assistant")
        pytest.skip("no Home Assistant is installed here; make home-assistant")
    return python


def test_a_real_home_assistant_takes_every_entity_and_shows_what_is_known(make_home: Callable[..., Site]) -> None:
    site = make_home()
    full(site)
    retained = {topic: payload.decode() for topic, payload in site.bus.retained.items() if payload}
    documents = {
        topic: json.loads(payload) for topic, payload in retained.items() if topic.startswith("homeassistant/")
    }
    assert set(documents) == {HOUSE1, HOUSE2, "homeassistant/device/flockwatch_farm1/config"}
    done = subprocess.run(
        [home_assistant(), HERE / "home_assistant.py"],
        input=json.dumps({"documents": documents, "states": retained}),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["problems"] == [], answer["version"]
    says = {name.removesuffix(" value_template"): text for name, text in answer["says"].items()}
    own = "flockwatch_farm1_house1"
    assert (says[f"{own}_sensor_temperature"], says[f"{own}_sensor_temperature-2"]) == ("21.25", "22.5")
    assert (says[f"{own}_sensor_water"], says[f"{own}_sensor_odd"]) == ("100.5", "7.0")
    assert float(says[f"{own}_prediction_weight_g_slaughter"]) == 2_000
    assert (says[f"{own}_problem"], says[f"{own}_severity"]) == ("ON", json.loads(retained[SUMMARY])["severity_word"])
    assert says[f"{own}_warning_silent"] == "ON"
    assert says["flockwatch_farm1_house2_problem"] == "OFF"
    assert {f"{own}_sensor_{name}" for name in CATALOGUE} <= set(says)


def test_every_entity_has_an_id_of_its_own_and_goes_stale_with_the_agent(make_home: Callable[..., Site]) -> None:
    site = make_home()
    full(site)
    documents = [json.loads(site.bus.retained[topic]) for topic in (HOUSE1, HOUSE2)]
    entities = [entity for document in documents for entity in document["components"].values()]
    assert len({entity["unique_id"] for entity in entities}) == len(entities)
    assert {entity["expire_after"] for entity in entities} == {180}
    for document in documents:
        assert document["availability"][0]["topic"] == f"{ROOT}/health"
        assert document["device"]["via_device"] == "flockwatch_farm1"


def test_a_reading_that_is_not_believed_is_not_shown(make_home: Callable[..., Site]) -> None:
    site = make_home()
    site.minutes(1)
    site.clock.wait(30)
    site.turn(site.reading(value=999.0))
    site.minutes(2, houses=["house2"])
    assert json.loads(site.bus.retained[SUMMARY])["readings"] == {"temperature": None}


def test_nobody_who_did_not_ask_for_it_gets_it(make_home: Callable[..., Site]) -> None:
    site = make_home({})
    full(site)
    assert not [topic for topic in site.bus.retained if "summary" in topic or topic.startswith("homeassistant")]


def test_an_entity_stays_through_a_restart_and_goes_with_its_house(make_home: Callable[..., Site]) -> None:
    site = make_home()
    full(site)
    site.minutes(1)
    before = set(json.loads(site.bus.retained[HOUSE1])["components"])
    site.restart()
    site.minutes(1)
    assert set(json.loads(site.bus.retained[HOUSE1])["components"]) == before
    at_broker = {topic for topic, payload in site.bus.retained.items() if payload and "/house1/" in topic}
    at_broker |= {HOUSE1}
    assert {f"{ROOT}/house1/warning/silent", f"{ROOT}/house1/prediction/weight_g", SUMMARY} <= at_broker
    smaller = make_home({**ON, "house": [{"id": "house2"}]})
    smaller.clock.at = site.clock.at
    smaller.minutes(1, houses=["house2"])
    assert {topic for topic, payload in smaller.bus.retained.items() if payload == b""} >= at_broker
    assert smaller.bus.retained[HOUSE2]


def test_switched_off_all_of_it_is_taken_back(make_home: Callable[..., Site]) -> None:
    site = make_home()
    site.minutes(2)
    off = make_home({})
    off.clock.at = site.clock.at
    off.minutes(1)
    emptied = {topic for topic, payload in off.bus.retained.items() if payload == b""}
    assert {HOUSE1, HOUSE2, SUMMARY, "homeassistant/device/flockwatch_farm1/config"} <= emptied
