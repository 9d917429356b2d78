"""Blocks of file versions, kept for readers."""
