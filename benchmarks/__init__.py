"""Measurements of speed and quality; each writes a table and benchmarks/results/NAME.json."""
