"""Progress on a log and on a terminal."""

import io

import pytest

from vfs.cli.progress import LINE_PAUSE_S, BarMeter, LineMeter, open_meter
from vfs.cli.text import show_bytes


def test_a_log_gets_a_line_now_and_then():
    now = [0.0]
    stream = io.StringIO()
    meter = LineMeter("storing", stream, clock=lambda: now[0])
    for second in range(21):
        now[0] = float(second)
        meter.update(second << 20, 20 << 20)
    assert LINE_PAUSE_S == 10
    assert stream.getvalue() == (
        "storing: 10.0 MiB of 20.0 MiB (50 %)\nstoring: 20.0 MiB of 20.0 MiB (100 %)\n"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar():
    with open_meter("storing [x]", stream=Terminal()) as meter:
        assert isinstance(meter, BarMeter)
        meter.update(1, 2)
    with open_meter("storing", stream=io.StringIO()) as meter:
        assert isinstance(meter, LineMeter)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 30, "5.0 GiB"),
        (9 << 40, "9.0 TiB"),
        (2 << 50, "2048.0 TiB"),
    ],
)
def test_sizes_have_a_unit_that_suits_them(size, text):
    assert show_bytes(size) == text
