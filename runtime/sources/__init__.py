"""Where frames come from: recordings, cameras, videos, the built-in rig."""
