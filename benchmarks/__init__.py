"""The benchmarks behind docs/results.md: `python -m benchmarks.NAME`."""
