"""The works, in the order in which they run."""

# isort: off
from bench.works import read, request_cost, write, listing, many, delta, stage  # noqa: F401 - it registers
