"""Decoding on the replicas of a Ray Serve application."""
