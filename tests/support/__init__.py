"""What several tests use: fakes, made-up frames, stand-ins for hardware."""
