"""Streaming sensor fusion for autonomous driving."""
