"""One file per kind of store: its calls and one table of errors."""
