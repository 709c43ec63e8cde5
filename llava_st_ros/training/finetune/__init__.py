"""Fine-tuning of LLaVA-ST checkpoints on data in ST-Align's format, with or without LoRA."""
