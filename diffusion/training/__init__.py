"""Training: loss, training step, optimisers, averages of the weights, augmentation."""
