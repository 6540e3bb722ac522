"""What a machine has, and whether it codes as every other machine does."""
