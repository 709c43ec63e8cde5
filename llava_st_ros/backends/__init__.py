"""What runs the network: one protocol, several runtimes."""
