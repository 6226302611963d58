"""Grids of runs: what is run, where, how it stands, and what came of it."""
