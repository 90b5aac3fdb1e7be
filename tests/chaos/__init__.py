"""Processes of a running service killed at random: `make chaos`, and a handful in the test suite."""
