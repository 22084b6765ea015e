"""How fast a run is, beside its own limits and beside what users write: `python -m benchmarks.speed`."""
