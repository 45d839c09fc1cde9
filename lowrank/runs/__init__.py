"""One run on disk: directory, lock, record, checkpoint, environment; found and compared."""
