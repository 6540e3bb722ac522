"""How good pictures are at how many bits, beside those of other codecs."""
