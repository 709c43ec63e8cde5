"""The llava-st command, one module a subcommand."""
