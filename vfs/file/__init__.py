"""Open files: the read path, the write path, commits."""
