"""The works, in the order in which they run."""

from bench.works import read, write, listing, many  # noqa: F401, I001 - importing is registering
