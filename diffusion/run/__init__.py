"""What surrounds a training run: checkpoints, logs, hosts, signals, devices."""
