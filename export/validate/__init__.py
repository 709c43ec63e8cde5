"""Checks of an export against the torch reference: proof, first divergent node, accuracy."""
