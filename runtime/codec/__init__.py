"""From frames to packets and back: bundles, encoder, decoder, the side image."""
