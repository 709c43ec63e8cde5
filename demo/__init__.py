"""Demo: a bag is played over DDS to the node, which evaluates three standing queries."""
