"""How good the shipped bundles are, beside simple forecasts: `python -m models_onnx.evaluate`."""
