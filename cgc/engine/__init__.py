"""What runs a method: devices, optimizers, the training loop, checkpoints and records."""
