"""The demo: a bag played over DDS to the node, three standing questions, and what came of them."""
