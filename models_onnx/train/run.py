"""The shipped bundles and who trains them. To add a bundle: a module with ``NAME`` and ``build``, and its line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models_onnx.train import anomaly, cause, expect, mortality, weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.bundles import Bundle
    from models_onnx.train.job import Job

TRAINERS: dict[str, Callable[[Job], Bundle]] = {
    anomaly.NAME: anomaly.build,
    expect.NAME: expect.build,
    mortality.NAME: mortality.build,
    weight.NAME: weight.build,
    cause.NAME: cause.build,  # after expect, by which its warnings are raised
}
