"""What runs on a device and on a server: no torch, no onnx, no tensorrt at import."""
