"""Stop strings: found at the same place however the text is cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaged.stopping import StopScanner, StopStep


def oracle(text: str, stop: list[str], *, include_stop: bool) -> tuple[str, str | None]:
    """What is left of a whole text: the match that ends first wins, then the one that stands first in the list."""
    for end in range(1, len(text) + 1):
        for one in stop:
            if text[:end].endswith(one):
                return text[: end if include_stop else end - len(one)], one
    return text, None


def feed(scanner: StopScanner, pieces: list[str]) -> tuple[str, str | None]:
    found = ""
    for piece in pieces:
        step = scanner.push(piece)
        found += step.text
        if step.matched is not None:
            return found, step.matched
    return found + scanner.flush(), None


# two letters, so that stop strings overlap themselves and each other
texts = st.text("ab", max_size=40)
stops = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)


@settings(deadline=None)
@given(pieces=st.lists(st.text("ab", max_size=5), max_size=15), stop=stops, include_stop=st.booleans())
def test_equals_the_oracle_however_the_text_is_cut(pieces: list[str], stop: list[str], include_stop: bool) -> None:
    scanner = StopScanner(stop, include_stop=include_stop)
    assert feed(scanner, pieces) == oracle("".join(pieces), stop, include_stop=include_stop)


@settings(deadline=None)
@given(text=texts, stop=stops)
def test_holds_back_no_more_than_could_begin_a_stop(text: str, stop: list[str]) -> None:
    scanner = StopScanner(stop)
    emitted = 0
    for i, character in enumerate(text):
        step = scanner.push(character)
        emitted += len(step.text)
        if step.matched is not None:
            return
        held = text[emitted : i + 1]
        longest = max((n for one in stop for n in range(len(one)) if text[: i + 1].endswith(one[:n])), default=0)
        assert len(held) == longest


def test_a_stop_string_across_pieces() -> None:
    scanner = StopScanner(["\nUser:"])
    assert scanner.push("Hello") == StopStep(text="Hello")
    assert scanner.push("\nUs") == StopStep(text="")
    assert scanner.push("ing\n") == StopStep(text="\nUsing")
    assert scanner.push("User: and more") == StopStep(text="", matched="\nUser:")


def test_what_matched_can_be_kept() -> None:
    assert StopScanner(["END"], include_stop=True).push("abENDcd") == StopStep(text="abEND", matched="END")


def test_the_match_that_ends_first_wins() -> None:
    assert StopScanner(["abcd", "bc"]).push("xabcd") == StopStep(text="xa", matched="bc")


def test_of_matches_that_end_together_the_first_in_the_list_wins() -> None:
    assert StopScanner(["ab", "b"]).push("xab") == StopStep(text="x", matched="ab")
    assert StopScanner(["b", "ab"]).push("xab") == StopStep(text="xa", matched="b")


def test_text_after_a_match_is_dropped() -> None:
    scanner = StopScanner(["."])
    assert scanner.push("a.b") == StopStep(text="a", matched=".")
    assert scanner.push("c") == StopStep(text="", matched=".")
    assert scanner.flush() == ""


def test_without_stop_strings_nothing_is_held() -> None:
    scanner = StopScanner([])
    assert scanner.push("abc") == StopStep(text="abc")
    assert scanner.flush() == ""


def test_flush_gives_the_beginning_of_a_stop_that_never_came() -> None:
    scanner = StopScanner(["abc"])
    assert scanner.push("xab") == StopStep(text="x")
    assert scanner.flush() == "ab"
    assert scanner.flush() == ""
