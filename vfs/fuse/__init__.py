"""The pyfuse3 adapter: decode, call, encode."""
