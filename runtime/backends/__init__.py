"""What runs ONNX graphs: onnxruntime on CPU and CUDA, TensorRT engines."""
