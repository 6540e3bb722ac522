"""From checkpoints to bundles: ONNX graphs, their verification, TensorRT engines."""
