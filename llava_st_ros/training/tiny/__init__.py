"""Training llava-st-tiny from scratch on simulated clips, and its ablations."""
