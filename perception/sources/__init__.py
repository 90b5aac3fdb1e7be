"""Readers of recorded drives, a file or a few for each format; `open.py` finds out which one fits a path."""
