"""What becomes of decoded frames: pictures, videos, recordings, viewers."""
