"""The training loop: steps, gradients, optimizers, saved state, progress."""
