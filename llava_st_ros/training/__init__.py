"""Training: the loop, the objective, the tiny model, fine-tuning on ST-Align, and adapters."""
