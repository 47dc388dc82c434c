"""The training step of common models by hand: the step, and its linear and convolutional layers."""
