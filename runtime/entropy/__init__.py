"""From integers to bytes and back, exactly, on any machine."""
