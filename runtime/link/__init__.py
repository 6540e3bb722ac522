"""What device and server say to each other: protocol, clocks, certificates."""
