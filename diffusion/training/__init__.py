"""Training: the loss, the step that lowers it, and what they are made of."""
