"""Token by token: constrained generation over any backend."""
