"""Checks of an export against the torch reference: proof, bisection, accuracy."""
