"""The real sets as parts of the report; each is left out, and that is said, where its data are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models_onnx.evaluate.real_ammonia import forecasts
from models_onnx.evaluate.report import ammonia_section

if TYPE_CHECKING:
    from pathlib import Path

    from agent.predict import Predictor
    from models_onnx.evaluate.report import Section


def sections(real: Path | None, predictor: Predictor) -> list[Section]:
    """Return the parts about real sets; ``real`` is the folder that holds them."""
    return [ammonia_section(forecasts(real, predictor) if real is not None else [])]
