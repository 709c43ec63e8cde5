"""LoRA adapters in the published layout: reading them, and merging them into a checkpoint."""
