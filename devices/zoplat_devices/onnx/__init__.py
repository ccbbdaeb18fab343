"""The device of ONNX Runtime."""
