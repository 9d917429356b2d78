"""Bytes that are written and not uploaded yet."""
