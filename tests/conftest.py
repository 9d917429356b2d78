"""Plug-ins of every test."""

pytest_plugins = ["tests.support.levels", "tests.support.hygiene", "pytester"]
