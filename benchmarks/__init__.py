"""What the figures in docs/results.md were measured with: `python -m benchmarks.NAME`."""
