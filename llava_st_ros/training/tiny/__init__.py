"""Training llava-st-tiny from nothing on simulated clips, and its ablations."""
