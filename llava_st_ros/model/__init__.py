"""The LLaVA-ST network: vision tower, LAPE, the Spatial-Temporal Packer and the language model."""
