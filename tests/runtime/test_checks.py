from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError, MissingDependency
from elinvar.runtime.checks import choice, count, number, optional_library


def test_numbers_are_returned_as_floats() -> None:
    assert number("op", "x", np.float32(2.5), 0.0, 3.0) == 2.5
    assert number("op", "x", "4") == 4.0


@pytest.mark.parametrize(
    ("value", "limits", "said"),
    [
        (np.float64(3.5), {"high": 3.0}, r"^op: x is 3\.5; a finite number in \[-inf, 3\] is accepted\.$"),
        (0, {"low": 0.0, "open_low": True}, r"in \(0, inf\]"),
        (1, {"high": 1.0, "open_high": True}, r"in \[-inf, 1\)"),
        (float("nan"), {}, "a finite number is accepted"),
        ("many", {}, "^op: x is 'many'; give one number"),
        (None, {}, "^op: x is None; give one number"),
    ],
)
def test_other_numbers_are_refused(value: object, limits: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        number("op", "x", value, **limits)


def test_counts() -> None:
    assert count("op", "n", np.int64(3)) == 3
    assert count("op", "n", 0, 0, 9) == 0
    for value, said in ((0, "at least 1"), (2.0, r"2\.0"), (True, "True"), ("3", "'3'")):
        with pytest.raises(InputError, match=said):
            count("op", "n", value)
    with pytest.raises(InputError, match=r"op: n is 10; give a whole number from 0 to 9"):
        count("op", "n", 10, 0, 9)


def test_choices() -> None:
    assert choice("op", "mode", "a", {"a": 1, "b": 2}) == "a"
    for value in ("c", None, ["a"]):
        with pytest.raises(InputError, match="choose one of a, b"):
            choice("op", "mode", value, ("a", "b"))


def test_a_missing_library_names_its_extra() -> None:
    assert optional_library("json", "op", "audio").__name__ == "json"
    with pytest.raises(MissingDependency, match=r"op needs nonexistent_thing, .*elinvar\[audio\]"):
        optional_library("nonexistent_thing.part", "op", "audio")
