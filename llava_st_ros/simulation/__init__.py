"""Simulated tabletops: physics, frames, ground truth, and questions about them. No torch."""
