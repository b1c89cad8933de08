"""What there is without our models, on the same readings: house computers' alarms, daily checks, simple forecasts."""

from __future__ import annotations

from models_onnx.evaluate.baselines.on_samples import WEIGHT_BASELINES

__all__ = ["WEIGHT_BASELINES"]
