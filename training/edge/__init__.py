"""The `edge` model: its parts, its data, its training."""
