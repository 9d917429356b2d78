"""What comes out: a table on the terminal, Markdown, JSON and a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from bench.work import MIB, Row, Sample, Verdict

VERSION = 1

COLUMNS = (
    "",
    "s",
    "(lowest-highest)",
    "MiB/s",
    "IOPS",
    "CPU-s/GiB",
    "peak MB",
    "requests",
    "fetched MiB",
)
LIMITS = ("work", "figure", "value", "limit", "")


@dataclass(slots=True)
class Result:
    """One piece of work and what came of it."""

    name: str
    title: str
    rows: dict[str, Row]
    verdicts: list[Verdict] = field(default_factory=list)
    failure: str = ""
    notes: list[str] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)  # of the machine, before each turn

    @property
    def passed(self) -> bool:
        """Whether it was done and every limit kept."""
        return not self.failure and all(verdict.passed for verdict in self.verdicts)


@dataclass(slots=True)
class Report:
    """One run of the benchmark."""

    date: str
    commit: str
    command: str
    size_bytes: int
    rounds: int
    round_trip_ms: float
    machine: dict[str, object]
    results: list[Result] = field(default_factory=list)

    def markdown(self) -> str:
        """Return it all as a document."""
        line = f" with a round trip of {self.round_trip_ms:g} ms" if self.round_trip_ms else ""
        about = (
            f"One large file: {self.size_bytes // MIB} MiB. Medians of {self.rounds}, the contenders"
            f" taking turns{line}. CPU, memory and requests are those of the daemon.\n"
        )
        parts = [
            f"# {self.date}, commit {self.commit}\n",
            f"`{self.command}`\n",
            about,
            *(f"- {name}: {value}" for name, value in self.machine.items()),
        ]
        shown = [limits(self.results), *map(show, self.results)]
        return "\n".join(parts) + "\n\n" + "\n".join(shown)

    def json(self) -> str:
        """Return every single turn."""
        results = [
            {
                **asdict(result),
                "rows": [
                    {**asdict(row), "median": asdict(row.median)} for row in result.rows.values()
                ],
                "passed": result.passed,
            }
            for result in self.results
        ]
        head = {name: getattr(self, name) for name in self.__slots__ if name != "results"}
        return json.dumps({"version": VERSION, **head, "results": results}, indent=1) + "\n"

    def write(self, directory: Path, name: str) -> Path:
        """Write the three files; return the one to read."""
        directory.mkdir(exist_ok=True)
        path = directory / f"{name}.md"
        path.write_text(self.markdown())
        path.with_suffix(".json").write_text(self.json())
        path.with_suffix(".svg").write_text(plot(self.results))
        return path


def show(result: Result) -> str:
    """Return one work as a table in Markdown, aligned so that a terminal shows it as well."""
    rows = [_cells(row) for row in result.rows.values() if row.samples]
    said = [_verdict(verdict) for verdict in result.verdicts]
    said += [f"- {note}" for note in result.notes]
    if result.loads:
        said.append(f"- load before the turns: {min(result.loads):.1f}-{max(result.loads):.1f}")
    if result.failure:
        said.append(f"- FAILED: {result.failure}")
    return "\n".join(
        [f"## {result.name}: {result.title}\n", *_table(COLUMNS, rows, left=1), "", *said, ""]
    )


def limits(results: Sequence[Result]) -> str:
    """Return every figure that has a limit, and whether the limit was kept."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        rows += [
            (result.name, v.says, f"{v.value:.2f}", f"{v.limit:g}", _answer(v))
            for v in result.verdicts
            if v.limit is not None
        ]
        if result.failure:
            rows.append((result.name, "(not measured)", "", "", "FAILED"))
    return "\n".join(["## Limits\n", *_table(LIMITS, rows, left=2), ""])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, left: int) -> list[str]:
    """Return the lines of a table whose first columns are text."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "| "
        + " | ".join(
            cell.rjust(width) if n >= left else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        + " |"
        for cells in lines
    ]
    rule = "|".join("-" * (w + 1) + (":" if n >= left else "-") for n, w in enumerate(widths))
    return [table[0], f"|{rule}|", *table[1:]]


def _cells(row: Row) -> tuple[str, ...]:
    median = row.median
    times = [sample.seconds for sample in row.samples]
    return (
        row.name,
        f"{median.seconds:.2f}",
        f"{min(times):.2f}-{max(times):.2f}",
        _number(median.mib_per_s, 0),
        _number(median.iops, 0),
        _number(median.cpu_s_per_gib, 2),
        _number(median.peak_bytes and median.peak_bytes / 1e6, 0),
        _number(median.requests, 0),
        _number(median.fetched_bytes and median.fetched_bytes / MIB, 1),
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _verdict(verdict: Verdict) -> str:
    if verdict.limit is None:
        return f"- {verdict.says}: {verdict.value:.2f}"
    return f"- {_answer(verdict)}: {verdict.says}: {verdict.value:.2f} (limit {verdict.limit:g})"


def _answer(verdict: Verdict) -> str:
    return "pass" if verdict.passed else "MISSED"


COLOURS = {
    "local": "#2da44e",
    "vfs": "#1f6feb",
    "direct": "#8b949e",
    "hashed": "#6e7781",
    "other": "#bf8700",
}
BAR, GAP, LEFT, WIDE, RIGHT = 16, 6, 180, 480, 110


def plot(results: list[Result]) -> str:
    """Draw the medians as bars: MiB a second where bytes were moved, else seconds."""
    y = GAP
    drawn: list[str] = []
    for result in results:
        medians = [(row, row.median) for row in result.rows.values() if row.samples]
        if not medians:
            continue
        drawn.append(
            f'<text x="{GAP}" y="{y + 18}" font-weight="bold">{escape(result.title)}</text>'
        )
        y += 26
        longest = max(_height(median)[0] for _, median in medians)
        for row, median in medians:
            value, label = _height(median)
            width = value / longest * WIDE
            drawn.append(
                f'<text x="{LEFT - GAP}" y="{y + 12}" text-anchor="end">{escape(row.name)}</text>'
            )
            drawn.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[row.kind]}"/>'
            )
            drawn.append(f'<text x="{LEFT + width + GAP:.1f}" y="{y + 12}">{label}</text>')
            y += BAR + GAP
        y += GAP
    size = f'width="{LEFT + WIDE + RIGHT}" height="{y}"'
    style = '<rect width="100%" height="100%" fill="white"/>'
    body = "\n".join([style, *drawn])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        f"\n{body}\n</svg>\n"
    )


def _height(median: Sample) -> tuple[float, str]:
    speed = median.mib_per_s
    return (
        (median.seconds, f"{median.seconds:.2f} s")
        if speed is None
        else (speed, f"{speed:.0f} MiB/s")
    )
