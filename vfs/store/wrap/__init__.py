"""Behaviour added around a store: counting, throttling, retrying."""
