"""The Spatial-Temporal Packer: the published form, and faster forms that are equal to it."""
