"""The llava-st command, one module per subcommand."""
