"""Topic templates: ``skov/{site}/{house}/{signal}`` as a matcher and as an MQTT subscription."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.config import NAME_PATTERN

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Tell whether ``text`` may name a site, house or signal: one level of a topic and of a path."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """A template whose ``{name}`` levels each match exactly one level of a topic."""

    text: str
    subscription: str  # the MQTT filter that brings every topic of the template
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> TopicTemplate:
        """Return the template that ``text`` writes; its form was checked by the configuration."""
        levels = text.split("/")
        filters, patterns = [], []
        for level in levels:
            is_field = level.startswith("{")
            filters.append("+" if is_field else level)
            # any content matches: a bad name is then refused as one, instead of passing for an unknown topic
            patterns.append(f"(?P<{level[1:-1]}>[^/]*)" if is_field else re.escape(level))
        return cls(text, "/".join(filters), re.compile("/".join(patterns)))

    def match(self, topic: str) -> dict[str, str] | None:
        """Return what stands in the fields of ``topic``, or None where the template does not fit."""
        found = self.pattern.fullmatch(topic)
        return None if found is None else found.groupdict()
