"""Objects: ranges in, bytes out; knows objects, never files."""
