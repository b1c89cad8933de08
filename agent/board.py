"""What stands at the broker: the retained topics of every house, brought to what stands now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agent.alerts import alert, iso
from agent.domain import from_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from agent.bus import Bus
    from agent.domain import Opinion, Prediction, Score, WarningEvent
    from agent.topics import Topics
    from agent.watch import HouseWatch, Outcome

HEARTBEAT_S = 60.0  # real time: a reader takes a severity that is older than 180 s as unknown


class Board:
    """Publishes what changed; after a new connection everything, as the broker may have forgotten."""

    def __init__(self, bus: Bus, topics: Topics, targets: Iterable[str], monotonic: float) -> None:
        """Take the ``targets`` that predictions are made of: their topics are emptied when the birds are gone."""
        self._bus = bus
        self._topics = topics
        self._targets = frozenset(targets)
        self._shown: dict[str, bytes] = {}  # our retained topics as we last published them
        self._predicted: dict[str, bytes] = {}
        self._scores: dict[tuple[str, str], dict[str, Score]] = {}  # by house and model: of each sensor the newest
        self._raised: set[str] = set()  # warnings that another one has shown
        self._before: set[str] = set()  # what another one left at the broker, of houses that are ours
        self.standing: list[WarningEvent] = []  # what was shown last
        self._heartbeat_due = monotonic

    def take_over(self, before: Board) -> None:
        """Take the place of a board: what it has shown and does not stand any more is to be emptied."""
        self._raised = {topic for topic in before._shown if topic.split("/")[-2] == "warning"} | before._raised

    def know(self, topics: Iterable[str], houses: Collection[str]) -> None:
        """Take what was left at the broker: of houses that are not ours any more it is emptied with the next show."""
        self._before = set(topics)
        self._raised |= {topic for topic in self._before if self._topics.house_of(topic) not in houses}
        self._before -= self._raised

    def topics(self) -> frozenset[str]:
        """Return what is retained at the broker by us."""
        empty = {topic for topic, payload in self._shown.items() if not payload}
        return frozenset(self._shown.keys() | self._before) - empty

    def predicted(self) -> dict[str, dict[str, object]]:
        """Return what stands of predictions, by topic."""
        return {topic: json.loads(payload) for topic, payload in self._predicted.items() if payload}

    def note(self, outcome: Outcome) -> None:
        """Take what models said of a house: one payload for each target, and for each model that scores readings."""
        by_target: dict[str, list[Prediction]] = {}
        for prediction in outcome.predictions:
            by_target.setdefault(prediction.target, []).append(prediction)
        for target, made in by_target.items():
            topic = self._topics.prediction(outcome.house, target)
            self._predicted[topic] = json.dumps(_prediction_value(made)).encode()
        for opinion in outcome.opinions:
            topic = self._topics.prediction(outcome.house, opinion.target)
            self._predicted[topic] = json.dumps(_opinion_value(opinion)).encode()
        for model in {score.model for score in outcome.scores}:
            scores = self._scores.setdefault((outcome.house, model), {})
            scores |= {score.signal: score for score in outcome.scores if score.model == model}
            topic = self._topics.prediction(outcome.house, model)
            self._predicted[topic] = json.dumps(_scores_value(model, scores)).encode()

    def show(self, watches: Sequence[HouseWatch], at: datetime, monotonic: float, *, anew: bool) -> None:
        """Bring the retained topics to what stands at ``at``, the last judged instant."""
        wanted = self._wanted(watches, at)
        for topic, payload in wanted.items():
            if anew or self._shown.get(topic) != payload:
                self._bus.publish(topic, payload, retain=True)
                self._shown[topic] = payload
        self._clear(watches, at, anew=anew)
        for topic in self._raised - wanted.keys():  # shown by another one, and not found again since
            self._bus.publish(topic, b"", retain=True)
        self._raised.clear()
        if monotonic >= self._heartbeat_due:
            self._heartbeat_due = monotonic + HEARTBEAT_S
            for watch in watches:
                self._bus.publish(self._topics.severity(watch.house), b"%d" % watch.severity(), retain=True)

    def _wanted(self, watches: Sequence[HouseWatch], at: datetime) -> dict[str, bytes]:
        """Return every retained topic that should stand now, with its payload."""
        wanted = dict(self._predicted)
        self.standing = []
        for watch in watches:
            if watch.life.flock is None:
                for target in self._targets:  # of birds that are gone nothing is to be expected
                    wanted[self._topics.prediction(watch.house, target)] = b""
            wanted[self._topics.severity(watch.house)] = b"%d" % watch.severity()
            for event in watch.shown(at):
                self.standing.append(event)
                wanted[self._topics.warning(watch.house, event.standing.rule)] = json.dumps(alert(event)).encode()
        return wanted

    def _clear(self, watches: Sequence[HouseWatch], at: datetime, *, anew: bool) -> None:
        """Say once that a warning is over, then empty its topic; after a new connection, empty all that should be."""
        for watch in watches:
            for rule in watch.over():
                topic = self._topics.warning(watch.house, rule)
                if self._shown.pop(topic, None) is not None:
                    self._before.discard(topic)
                    last_word = json.dumps(alert(watch.last_word(rule, at))).encode()
                    self._bus.publish(topic, last_word, retain=True)
                    self._bus.publish(topic, b"", retain=True)
                elif anew:
                    self._before.discard(topic)
                    self._bus.publish(topic, b"", retain=True)


def _prediction_value(made: Sequence[Prediction]) -> dict[str, object]:
    first = made[0]
    return {
        "target": first.target,
        "house": first.house,
        "flock": first.flock,
        "day_number": first.day_number,
        "made_at": iso(first.made_at),
        "model": first.model,
        "model_version": first.model_version,
        "coverage": round(first.coverage, 3),
        "horizons": [
            {
                "horizon": p.horizon,
                "target_at": iso(p.target_at),
                "p10": round(p.p10, 1),
                "p50": round(p.p50, 1),
                "p90": round(p.p90, 1),
            }
            for p in made
        ],
    }


def _opinion_value(opinion: Opinion) -> dict[str, object]:
    return {
        "target": opinion.target,
        "house": opinion.house,
        "flock": opinion.flock,
        "day_number": opinion.day_number,
        "made_at": iso(opinion.made_at),
        "model": opinion.model,
        "model_version": opinion.model_version,
        "coverage": round(opinion.coverage, 3),
        "meaning": opinion.meaning,
        "unit": opinion.unit,
        "values": {name: float(f"{value:.6g}") for name, value in opinion.values.items()},
    }


def _scores_value(model: str, scores: Mapping[str, Score]) -> dict[str, object]:
    newest = max(scores.values(), key=lambda score: score.at_ms)
    return {
        "target": model,
        "house": newest.house,
        "made_at": iso(from_ms(newest.at_ms)),
        "model": model,
        "model_version": newest.model_version,
        "meaning": "score",
        "scores": {
            name: {
                "at": iso(from_ms(score.at_ms)),
                "score": None if score.score is None else round(score.score, 4),
                "why": score.why,
            }
            for name, score in sorted(scores.items())
        },
    }
