"""Where the milliseconds and the watts of a frame go."""
