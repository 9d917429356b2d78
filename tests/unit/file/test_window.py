"""Read-ahead as a pure function of the requests."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.file.window import (
    FIRST_BYTES,
    GAP_BYTES,
    RESTING,
    STREAMS,
    STRIDES,
    History,
    Run,
    Stride,
    advance,
)
from vfs.spans import SpanSet
from vfs.values import GIB, KIB, MIB, TIB, Span

LIMIT = 64 * MIB
SIZE = 1 << 40
FAR = 100 * GIB


def run(requests, limit=LIMIT, size=SIZE, history=None):
    """Return the last history and what was asked for with each request."""
    history, asked = history or History(), []
    for request in requests:
        history, wanted = advance(history, request, limit, size)
        asked.append(wanted)
    return history, asked


def total(asked):
    return sum(span.size for wanted in asked for span in wanted)


def sequential(start, count, size=128 * KIB):
    return [Span(start + n * size, start + (n + 1) * size) for n in range(count)]


def strided(start, count, step, size=4 * KIB):
    return [Span(start + n * step, start + n * step + size) for n in range(count)]


def scattered(seed, count, space, size=4 * KIB):
    pick = random.Random(seed)
    return [
        Span(at * size, (at + 1) * size)
        for at in (pick.randrange(space // size) for _ in range(count))
    ]


def late(requests, limit=LIMIT, size=SIZE):
    """Return the requests with bytes that nobody had asked for before they came."""
    history, covered, found = History(), SpanSet(), []
    for request in requests:
        if not covered.covers(request):
            found.append(request)
        history, wanted = advance(history, request, limit, size)
        for span in (request, *wanted):
            covered = covered.add(span)
    return found


def streams(history, kind):
    return [stream for stream in history.streams if isinstance(stream, kind)]


# A reader that goes on


def test_one_request_alone_fetches_nothing_ahead():
    _, asked = run([Span(10 * MIB, 10 * MIB + 4096)])
    assert asked == [()]


def test_a_second_request_in_order_opens_a_window_of_a_mebibyte():
    _, asked = run(sequential(0, 2))
    assert asked[1] == (Span(256 * KIB, 256 * KIB + FIRST_BYTES),)


def test_the_window_grows_when_the_reader_has_caught_up_and_not_before():
    """That is when it comes to what was fetched the last time that the window grew."""
    history, window, ahead, marks = History(), 0, 0, [0]
    for request in sequential(0, 1000):
        history, wanted = advance(history, request, LIMIT, SIZE)
        if history.streams and history.streams[0].window > window:
            assert request.stop > marks[-1]
            assert history.streams[0].window == max(2 * window, FIRST_BYTES)
            window = history.streams[0].window
            marks.append(ahead)
        ahead = max([ahead, *(span.stop for span in wanted)])
    assert window == LIMIT
    assert len(marks) == 8


def test_the_window_never_passes_the_limit():
    history, _ = run(sequential(0, 4000), limit=16 * MIB)
    (stream,) = history.streams
    assert stream.window == 16 * MIB
    assert stream.ahead <= stream.next + 16 * MIB


def test_the_window_shrinks_with_the_limit_and_grows_again():
    requests = sequential(0, 3000)
    history, _ = run(requests[:1000])
    history, asked = run(requests[1000:1100], limit=2 * MIB, history=history)
    assert history.streams[0].window == 2 * MIB
    assert total(asked) == 0  # enough was fetched
    history, asked = run(requests[1100:2000], limit=2 * MIB, history=history)
    assert history.streams[0].ahead - history.streams[0].next <= 2 * MIB
    history, _ = run(requests[2000:], history=history)
    assert history.streams[0].window > 16 * MIB


def test_a_sequential_reader_is_asked_for_every_byte_once_and_in_order():
    requests = sequential(0, 400)
    _, asked = run(requests)
    wanted = [span for spans in asked for span in spans]
    position = wanted[0].start
    for span in wanted:
        assert span.start == position
        position = span.stop
    assert all(span.size >= FIRST_BYTES for span in wanted)
    assert wanted[0].start <= requests[1].stop


@given(
    st.integers(4, 1024).map(lambda pages: pages * 4 * KIB // 4),
    st.integers(0, TIB // 2),
    st.booleans(),
    st.integers(8 * MIB, LIMIT),
)
def test_after_two_requests_a_sequential_reader_never_comes_first(size, start, down, limit):
    requests = sequential(start, 100, size)
    if down:
        requests.reverse()
    assert late(requests, limit) == requests[:2]


def test_a_reader_that_jumps_starts_small_again():
    history, _ = run(sequential(0, 1000))
    history, asked = run(sequential(FAR, 2, 4096), history=history)
    assert asked[0] == ()
    assert total(asked) == FIRST_BYTES


def test_the_end_of_the_file_is_where_it_ends():
    size = 3 * MIB + 5
    _, asked = run(Span(0, size).pieces(128 * KIB), size=size)
    assert max(span.stop for wanted in asked for span in wanted) == size


# Down


def test_a_reader_that_goes_down_gets_what_lies_below():
    requests = sequential(FAR, 200)[::-1]
    history, asked = run(requests)
    assert len(history.streams) == 1
    assert asked[1][0].stop == requests[1].start
    assert all(
        span.stop <= request.start
        for request, spans in zip(requests, asked, strict=True)
        for span in spans
    )


def test_what_a_reader_that_goes_down_needs_first_is_asked_for_first():
    _, asked = run(sequential(FAR, 2000)[::-1])
    (most,) = {max(asked, key=len)}
    assert len(most) > 1
    assert list(most) == sorted(most, reverse=True)


def test_a_reader_that_goes_down_stops_at_the_beginning():
    _, asked = run(sequential(0, 20)[::-1])
    assert min(span.start for spans in asked for span in spans) == 0


def test_a_reader_that_turns_round_is_followed():
    up = sequential(FAR, 200)
    history, _ = run(up)
    _, asked = run(up[:100][::-1], history=history)
    assert total(asked[:3]) >= FIRST_BYTES
    assert asked[1][0].stop == up[98].start


# Strides


@pytest.mark.parametrize("step", [MIB, 8 * MIB, 64 * MIB + 12 * KIB, -MIB, -8 * MIB])
@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB])
def test_a_reader_with_strides_gets_the_next_ones_and_nothing_in_between(step, size):
    requests = strided(FAR, 200, step, size)
    assert late(requests) == requests[:3]
    history, asked = run(requests)
    (stride,) = streams(history, Stride)
    assert stride.window == STRIDES
    places = {request.start for request in strided(FAR, 200 + STRIDES, step, size)}
    assert {span.start for spans in asked for span in spans} <= places
    assert total(asked) <= (200 + STRIDES) * size


def test_strides_within_a_block_are_a_reader_that_goes_on():
    history, _ = run(strided(0, 50, GAP_BYTES))
    assert [stream.down for stream in streams(history, Run)] == [False]


def test_two_readers_with_strides_are_both_followed():
    one, two = strided(0, 100, MIB), strided(FAR, 100, 3 * MIB)
    requests = [request for pair in zip(one, two, strict=True) for request in pair]
    assert len(late(requests)) == 6


def test_strides_that_overtake_each_other_are_followed():
    requests = strided(0, 200, MIB)
    for index in range(20, 198, 3):
        requests[index], requests[index + 1] = requests[index + 1], requests[index]
    assert len(late(requests)) == 3


def test_strides_end_where_the_limit_and_the_file_end():
    _, asked = run(strided(0, 40, MIB, 64 * KIB), limit=256 * KIB, size=40 * MIB)
    assert max(map(len, asked)) <= 4
    assert max(span.stop for spans in asked for span in spans) <= 40 * MIB


# Several readers


@pytest.mark.parametrize("count", [2, 4, 8, STREAMS])
@pytest.mark.parametrize("down", [False, True])
def test_interleaved_readers_are_all_followed(count, down):
    readers = [sequential((base + 1) * FAR // 16 + base * MIB, 200) for base in range(count)]
    if down:
        readers = [reader[::-1] for reader in readers]
    requests = [request for group in zip(*readers, strict=True) for request in group]
    assert len(late(requests)) <= 6 * count


def test_readers_of_one_handle_share_what_is_allowed():
    readers = [sequential(base * FAR // 8, 3000) for base in range(4)]
    history, _ = run(request for group in zip(*readers, strict=True) for request in group)
    assert [stream.window for stream in history.streams] == [LIMIT // 4] * 4


def test_a_reader_that_has_gone_leaves_its_share():
    history, _ = run(sequential(FAR, 1000))
    history, _ = run(sequential(0, RESTING + 2000), history=history)
    (stream,) = history.streams
    assert stream.window == LIMIT


def test_random_requests_beside_a_reader_do_not_stop_it():
    requests = sequential(0, 300)
    noise = scattered(1, 1200, SIZE)
    mixed = [
        one for n, request in enumerate(requests) for one in (request, *noise[4 * n : 4 * n + 4])
    ]
    assert [request for request in late(mixed) if request.size > 4 * KIB] == requests[:2]


# At random


def test_random_requests_fetch_nothing_ahead():
    _, asked = run(scattered(1, 500, 1 << 40))
    assert total(asked) == 0


def test_random_requests_in_a_small_image_fetch_next_to_nothing_ahead():
    _, asked = run(scattered(1, 20_000, 4 * GIB), size=4 * GIB)
    assert total(asked) / 20_000 < 4 * KIB


def test_random_requests_around_a_reader_do_not_widen_its_window():
    history, _ = run(sequential(0, 10, 4 * KIB))
    history, asked = run(scattered(1, 500, 4 * GIB), history=history)
    assert total(asked) <= 4 * MIB


def test_a_block_that_is_read_again_and_again_fetches_nothing_ahead():
    _, asked = run([Span(MIB, MIB + 4096)] * 100)
    assert total(asked) == 0


# Out of order


def test_requests_slightly_out_of_order_continue_the_stream():
    requests = sequential(0, 40)
    for index in range(4, 38, 2):
        requests[index], requests[index + 1] = requests[index + 1], requests[index]
    history, asked = run(requests)
    assert len(history.streams) == 1
    assert total(asked) >= 4 * MIB


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [128 * KIB, MIB])
def test_the_kernels_own_read_ahead_may_shuffle_what_it_asks_for(seed, size):
    """It has 4 MiB under way, and threads of the daemon's side take them as they come."""
    pick = random.Random(seed)
    requests = sorted(
        sequential(0, 256 * MIB // size, size),
        key=lambda span: span.start + pick.random() * 4 * MIB,
    )
    missed = late(requests)
    assert sum(request.start > 16 * MIB for request in missed) <= 2
    assert sum(request.size for request in missed) <= 8 * MIB


def convert(pick, size, workers=16, piece=2 * MIB):
    """Yield the requests of `qemu-img convert -m 16 -W -T none`.

    A coroutine claims the next piece when its last one is written. The kernel sends the halves of
    a piece at once; either may overtake those of other coroutines.
    """
    pieces = iter(list(Span(0, size).pieces(piece)))
    under_way = [half for _ in range(workers) for half in next(pieces).pieces(MIB)]
    while under_way:
        # Mostly the oldest, sometimes one of the newest.
        index = min(int(pick.expovariate(0.4)), len(under_way) - 1)
        yield under_way.pop(index)
        if len(under_way) <= 2 * workers - 2:
            under_way.extend(next(pieces, Span(0, 0)).pieces(MIB))


@pytest.mark.parametrize("seed", range(5))
def test_qemu_img_with_sixteen_coroutines_is_one_reader(seed):
    requests = list(convert(random.Random(seed), 2 * GIB))
    assert len(requests) == 2048
    assert requests != sorted(requests)
    missed = late(requests, size=2 * GIB)
    assert sum(request.start > 64 * MIB for request in missed) <= 4
    assert len(missed) <= 32
    history, asked = run(requests, size=2 * GIB)
    assert total(asked) <= 2 * GIB + 32 * MIB  # some of it twice: it is fetched once
    assert len(history.streams) <= 4


def test_the_order_that_qemu_img_was_seen_to_read_a_qcow2_image_in_is_one_reader():
    """In pieces of 128 KiB, each request a mebibyte; the one at 258 came nine requests late."""
    seen = """2 10 18 34 42 26 50 58 66 74 82 90 98 106 114 122 130 138 146 162 170 154 178 186 194
        202 210 218 226 234 242 250 274 282 290 298 306 314 322 330 258 266 338 346 354 362"""
    requests = [Span(at * 128 * KIB, at * 128 * KIB + MIB) for at in map(int, seen.split())]
    history, _ = run(requests)
    assert len(history.streams) == 1
    assert len(late(requests)) <= 8


def test_a_reader_that_skips_most_of_a_file_is_not_fetched_what_it_skips():
    requests = strided(0, 400, 8 * MIB, MIB)
    _, asked = run(requests)
    assert total(asked) <= 450 * MIB


# Whatever comes

requests = st.tuples(
    st.one_of(
        st.integers(0, SIZE - 1), st.integers(0, 16 * MIB), st.integers(0, 64).map(MIB.__mul__)
    ),
    st.one_of(st.integers(1, 2 * MIB), st.just(MIB), st.just(4 * KIB)),
).map(lambda pair: Span(pair[0], min(pair[0] + pair[1], SIZE)))


@given(st.lists(requests, max_size=80), st.integers(-5, LIMIT), st.integers(0, SIZE))
def test_nothing_is_ever_asked_outside_the_file_or_beyond_the_limit(given_requests, limit, size):
    history = History()
    for request in given_requests:
        history, wanted = advance(history, request, limit, size)
        assert len(history.streams) <= STREAMS
        assert sum(span.size for span in wanted) <= max(limit, 0)
        assert all(wanted)
        for span in wanted:
            assert span.stop <= size
            assert not span.overlaps(request)


@given(st.lists(requests, max_size=80))
def test_no_room_means_nothing_ahead(given_requests):
    _, asked = run(given_requests, limit=0)
    assert not any(asked)


@given(st.lists(requests, max_size=80), st.integers(0, LIMIT))
def test_no_run_is_further_ahead_of_its_reader_than_the_limit(given_requests, limit):
    history, _ = run(given_requests, limit=limit)
    for stream in streams(history, Run):
        assert stream.ahead - stream.next <= limit
        assert stream.window <= limit
