"""Counters of one process, for `vfs status` and for whoever collects them.

A sample has a name and labels, like those of Prometheus; a counter that only grows ends in
`_total`. Everything is counted on the trio loop, so no lock is needed; a snapshot is a plain copy.

    metrics = Metrics()
    metrics.add("store_calls_total", operation="read", result="OK")
    metrics.snapshot().total("store_calls_total", result="OK")   # 1
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""


Sample = tuple[str, Labels]
"""A name with its labels."""


def sample(name: str, **labels: str) -> Sample:
    """Return a name with its labels in order."""
    return name, _sorted(labels)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was counted up to one moment."""

    samples: Mapping[Sample, float]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all samples of a name that carry these labels."""
        wanted = set(labels.items())
        return sum(
            value
            for (sample, found), value in self.samples.items()
            if sample == name and wanted <= set(found)
        )


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a store can be used, as far as its last requests tell."""

    up: bool = True
    answered: bool = False  # at least once
    latency_s: float | None = None  # of requests that were answered, a moving average
    last_error: str | None = None  # of the last request that found it unusable


class Metrics:
    """Named numbers with labels, and the health of stores by URL."""

    def __init__(self) -> None:
        self.health: defaultdict[str, Health] = defaultdict(Health)
        self._samples: defaultdict[Sample, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count on; a negative amount lowers a gauge."""
        self.add_to(sample(name, **labels), amount)

    def add_to(self, which: Sample, amount: float = 1) -> None:
        """Count on what is counted often: its labels need not be put in order each time."""
        self._samples[which] += amount

    def snapshot(self) -> Snapshot:
        """Return the values of this moment."""
        return Snapshot(dict(self._samples))


def _sorted(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
