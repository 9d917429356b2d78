"""Read-ahead as a pure function of the requests."""

import random

from hypothesis import given
from hypothesis import strategies as st

from vfs.file.window import FIRST_BYTES, STREAMS, History, advance
from vfs.values import KIB, MIB, Span

LIMIT = 64 * MIB


def run(requests, limit=LIMIT):
    history, asked = History(), []
    for request in requests:
        history, wanted = advance(history, request, limit)
        asked.append(wanted)
    return history, asked


def sequential(start, count, size=128 * KIB):
    return [Span(start + n * size, start + (n + 1) * size) for n in range(count)]


def test_one_request_alone_fetches_nothing_ahead():
    _, asked = run([Span(10 * MIB, 10 * MIB + 4096)])
    assert not asked[0]


def test_a_second_request_in_order_opens_a_window_of_a_mebibyte():
    _, asked = run(sequential(0, 2))
    assert asked[1].size == FIRST_BYTES
    assert asked[1].start == 256 * KIB


def test_the_window_doubles_up_to_the_limit():
    history, _ = run(sequential(0, 4000), limit=16 * MIB)
    (stream,) = history.streams
    assert stream.window == 16 * MIB
    assert stream.ahead <= stream.next + 16 * MIB


def test_a_sequential_reader_is_asked_for_every_byte_once_and_in_order():
    requests = sequential(0, 400)
    _, asked = run(requests)
    wanted = [span for span in asked if span]
    position = wanted[0].start
    for span in wanted:
        assert span.start == position
        position = span.stop
    assert all(span.size >= FIRST_BYTES for span in wanted)
    assert wanted[0].start <= requests[1].stop


def test_four_interleaved_streams_are_all_followed():
    streams = [sequential(base * 10_000 * MIB, 100) for base in range(STREAMS)]
    _, asked = run([request for group in zip(*streams, strict=True) for request in group])
    for base in range(STREAMS):
        ahead = [span for span in asked if span and span.start // (10_000 * MIB) == base]
        assert sum(span.size for span in ahead) >= 12 * MIB


def test_random_requests_fetch_nothing_ahead():
    pick = random.Random(1)
    requests = [
        Span(at * 4096, (at + 1) * 4096) for at in (pick.randrange(1 << 28) for _ in range(500))
    ]
    _, asked = run(requests)
    assert sum(span.size for span in asked) == 0


def test_a_reader_that_jumps_starts_small_again():
    history, _ = run(sequential(0, 1000))
    history, asked = advance(history, Span(9000 * MIB, 9000 * MIB + 4096), LIMIT)
    assert not asked
    history, asked = advance(history, Span(9000 * MIB + 4096, 9000 * MIB + 8192), LIMIT)
    assert asked.size == FIRST_BYTES


def test_requests_slightly_out_of_order_continue_the_stream():
    requests = sequential(0, 40)
    for index in range(4, 38, 2):
        requests[index], requests[index + 1] = requests[index + 1], requests[index]
    history, asked = run(requests)
    assert len(history.streams) == 1
    assert sum(span.size for span in asked) >= 4 * MIB


def test_no_room_means_nothing_ahead():
    _, asked = run(sequential(0, 100), limit=0)
    assert not any(asked)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, MIB)), max_size=60),
    st.integers(-5, LIMIT),
)
def test_nothing_is_ever_asked_behind_a_request_or_beyond_the_limit(pairs, limit):
    history = History()
    for start, size in pairs:
        request = Span(start, start + size)
        history, wanted = advance(history, request, limit)
        assert len(history.streams) <= STREAMS
        assert wanted.start >= request.stop or not wanted
        assert wanted.size <= max(limit, 0) + MIB
