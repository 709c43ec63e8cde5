"""Simulated tabletops: physics, pictures, truth, and questions about them. Without torch."""
