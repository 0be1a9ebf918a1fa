"""Noise levels: schedules, and the distributions of sigma in training."""
