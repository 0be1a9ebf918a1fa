"""A training run on disk and on machines: checkpoints, records, hosts, signals."""
