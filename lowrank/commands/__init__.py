"""One file per subcommand of lowrank, named as it."""
