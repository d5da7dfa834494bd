"""Values of JSON against schemas."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from ndt.errors import InputError
from ndt.schema import Count, Positive, Within, typed


class Entry(TypedDict):
    name: str
    rate: NotRequired[Positive]


@dataclass(frozen=True)
class Size:
    width: Annotated[int, Within(1, 8)]
    names: tuple[str, ...] = ()
    pair: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError("width must be even")


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        (float, 3, 3.0),
        (float, 2.5, 2.5),
        (int, 3, 3),
        (Count, 0, 0),
        (str, "x", "x"),
        (bool, True, True),
        (float | None, None, None),
        (int | str, "x", "x"),
        (Literal["a", "b"], "b", "b"),
        (list[float], [1, 2.0], [1.0, 2.0]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict[str, float | None], {"a": None, "b": 1}, {"a": None, "b": 1.0}),
        (Entry, {"name": "a", "more": [1]}, {"name": "a", "more": [1]}),
        (Size, {"width": 4, "names": ["a"], "pair": [1, 2]}, Size(4, ("a",), (1.0, 2))),
        (Any, {"x": [None]}, {"x": [None]}),
    ],
)
def test_what_fits_is_returned(kind, found, expected) -> None:
    assert typed(kind, found, "x.json") == expected


@pytest.mark.parametrize(
    ("kind", "found", "told"),
    [
        (float, "3", "x.json: content: expected a finite number, found '3'"),
        (float, True, "expected a finite number, found True"),
        (float, float("nan"), "expected a finite number, found nan"),
        (float, float("inf"), "expected a finite number, found inf"),
        (float, 10**400, "expected a finite number"),
        (int, 2.0, "expected an integer, found 2.0"),
        (int, True, "expected an integer, found True"),
        (int, 10**30, "expected an integer"),
        (bool, 1, "expected true or false, found 1"),
        (str, None, "expected text, found None"),
        (Count, -1, "expected at least 0, found -1"),
        (Positive, 0, "expected a number above 0, found 0"),
        (float | None, "x", "expected a finite number, found 'x'"),
        (Literal["a", "b"], "c", "expected a or b, found 'c'"),
        (Literal["a", "b"], ["a"], "expected a or b"),
        (list[float], {"a": 1}, "expected a list"),
        (list[float], [1, "x"], r"content\[1\]: expected a finite number"),
        (tuple[float, int], [1], "expected a list of 2"),
        (dict[str, int], [1], "expected keys and their values"),
        (dict[str, int], {"a": {"b": 1}}, "x.json: a: expected an integer"),
        (dict[str, int], {1: 1}, "expected keys of text"),
        (Entry, {"rate": 1}, "x.json: name: expected an entry of that name, found none"),
        (Entry, {"name": "a", "rate": -1}, "x.json: rate: expected a number above 0"),
        (Size, {"width": 4, "colour": 1}, "colour: expected one of width, names, pair, found an unknown entry"),
        (Size, {}, "width: expected an entry of that name"),
        (Size, {"width": 9}, "width: expected 1 to 8, found 9"),
        (Size, {"width": 3}, "expected entries that fit together, found width must be even"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(kind, found, told) -> None:
    with pytest.raises(InputError, match=told):
        typed(kind, found, "x.json")


def test_a_long_value_is_cut() -> None:
    with pytest.raises(InputError) as error:
        typed(int, "x" * 10_000, "x.json")
    assert len(str(error.value)) < 200
