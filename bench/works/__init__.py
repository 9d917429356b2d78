"""The works, in the order in which they run."""

# isort: off
from bench.works import read, request_cost, warm, scattered, convert, write  # noqa: F401 - it registers
from bench.works import listing, many, delta, stage  # noqa: F401 - likewise
