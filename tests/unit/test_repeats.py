"""A cause of many failures is told once in a while."""

from vfs.repeats import Repeats


def test_the_same_is_told_once_and_then_with_how_often_it_was_not():
    repeats = Repeats(quiet_s=10)
    assert [repeats.turn("a", at_s) for at_s in (0, 1, 9.9)] == ["", None, None]
    assert repeats.turn("a", 10) == " (and 2 times more since this was last told)"
    assert repeats.turn("a", 20) == ""


def test_each_cause_is_told():
    repeats = Repeats(quiet_s=10)
    assert [repeats.turn(name, 0) for name in "abab"] == ["", "", None, None]


def test_memory_is_bounded_by_forgetting_what_was_told_first():
    repeats = Repeats(quiet_s=10, most=3)
    for name in "abcd":
        repeats.turn(name, 0)
    assert [repeats.turn(name, 1) for name in "dcb"] == [None] * 3
    assert repeats.turn("a", 1) == ""
