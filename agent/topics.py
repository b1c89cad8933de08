"""The topics that the agent speaks on and listens to, besides those of the sources."""

from __future__ import annotations


class Topics:
    """The topics that the agent speaks on and listens to."""

    def __init__(self, prefix: str, site: str) -> None:
        self._root = f"{prefix}/{site}"
        self.health = f"{self._root}/health"
        self.commands = (
            f"{self._root}/+/flock/command",
            f"{self._root}/+/warning/+/command",
            f"{self._root}/+/drill/command",
        )
        self.receipts = f"{self._root}/+/receipt/+"

    def warning(self, house: str, rule: str) -> str:
        """Return where the alert of one rule stands."""
        return f"{self._root}/{house}/warning/{rule}"

    def severity(self, house: str) -> str:
        """Return where the worst severity of a house stands."""
        return f"{self._root}/{house}/severity"

    def summary(self, house: str) -> str:
        """Return where all that is known of a house stands, for Home Assistant."""
        return f"{self._root}/{house}/summary"

    def house_of(self, topic: str) -> str | None:
        """Return the house that a topic of ours is about."""
        return topic[len(self._root) + 1 :].partition("/")[0] if self.is_ours(topic) else None

    def prediction(self, house: str, target: str) -> str:
        """Return where the newest prediction of a target stands."""
        return f"{self._root}/{house}/prediction/{target}"

    def is_ours(self, topic: str) -> bool:
        """Tell whether a topic is below our own root, where no sensor speaks."""
        return topic.startswith(self._root + "/")

    def receipt(self, topic: str) -> tuple[str, str] | None:
        """Return the house and the controller of a receipt's topic."""
        place = topic[len(self._root) + 1 :].split("/") if self.is_ours(topic) else []
        return (place[0], place[2]) if len(place) == 3 and place[1] == "receipt" else None

    def drill(self, house: str, what: str) -> str:
        """Return a topic of the drills of a house."""
        return f"{self._root}/{house}/drill/{what}"

    def drill_of(self, topic: str) -> tuple[str, str] | None:
        """Return the house of a drill's topic, and what stands behind ``drill``."""
        house, _, what = topic[len(self._root) + 1 :].partition("/drill/") if self.is_ours(topic) else ("", "", "")
        return (house, what) if what and "/" not in house else None

    def command(self, topic: str) -> list[str] | None:
        """Return what a command's topic names after the site: ``[house, "flock"]`` or ``[house, "warning", rule]``.

        Or ``[house, "drill"]``.
        """
        if not topic.startswith(self._root + "/") or not topic.endswith("/command"):
            return None
        place = topic[len(self._root) + 1 :].split("/")[:-1]
        return place if place[1:] in (["flock"], ["drill"]) or (len(place) == 3 and place[1] == "warning") else None
