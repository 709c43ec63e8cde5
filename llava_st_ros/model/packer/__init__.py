"""The Spatial-Temporal Packer: the published form and the faster ones that equal it."""
