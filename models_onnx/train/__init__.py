"""Where each shipped bundle comes from: `python -m models_onnx.train`."""
