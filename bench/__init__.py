"""Measures vfs against what can be done without it; `make bench` runs it, docs/performance.md says how."""
