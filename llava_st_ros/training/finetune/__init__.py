"""Fine-tuning any LLaVA-ST checkpoint with LoRA on ST-Align's format."""
