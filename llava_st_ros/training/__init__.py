"""Training: the objective, the tiny model's stages, fine-tuning on ST-Align, adapters."""
