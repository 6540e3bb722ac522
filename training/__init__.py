"""The system of the paper in PyTorch: models, losses, data, training, evaluation."""
