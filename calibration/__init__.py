"""From floats to integers: the exact integer context model."""
