"""How a file becomes objects."""
