"""The values of expressions, which units they choose, and that they can do nothing else."""

import numpy as np
import pytest

from ndt.data.expressions import Expression, chosen_units
from ndt.errors import InputError

COLUMNS = {
    "quality": np.array(["good", "mua", "good", "noise"]),
    "rate_hz": np.array([0.2, 5.0, 3.0, np.nan]),
    "location": np.array(["M1", "M1", "PMd", "S1"]),
    "heldout": np.array([True, False, False, True]),
    "flag": np.array([1, 0, 1, 0]),
    "depth": np.array([-100, 0, 250, 900]),
}


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("quality == 'good'", [0, 2]),
        ("quality == 'good' and rate_hz > 0.5", [2]),
        ("quality == 'good' and rate_hz > 0.5 and location == 'M1'", []),
        ("not heldout", [1, 2]),
        ("location in ['M1', 'S1'] and not (rate_hz < 1)", [1, 3]),
        ("location not in ('M1',)", [2, 3]),
        ("0 < rate_hz <= 3", [0, 2]),
        ("isnan(rate_hz) or depth < -50", [0, 3]),
        ("rate_hz != 5", [0, 2, 3]),  # NaN differs from all
        ("-depth / 2 + 1 > 0", [0, 1]),
        ("flag and depth in [0, 250]", [2]),
        ("flag == 1", [0, 2]),
        ("sign(depth) == 1 or abs(depth) > 50", [0, 2, 3]),
        ("flag - heldout < 0", [3]),  # truth values count as numbers
        ("True", [0, 1, 2, 3]),
    ],
)
def test_what_is_chosen(expression, rows) -> None:
    np.testing.assert_array_equal(np.flatnonzero(chosen_units(expression, COLUMNS, "a.nwb")), rows)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("quality = 'good'", "an expression over columns of units, found \"quality = 'good'\""),
        ("rate > 1", "one of the columns depth, flag, heldout, location, quality, rate_hz, found 'rate'"),
        ("quality > 1", "text compared with text, and numbers with numbers"),
        ("rate_hz", "true or false of a unit"),
        ("rate_hz and flag", "a truth value, found 'rate_hz'"),
        ("location + 1 > 2", "a number, found 'location'"),
        ("heldout is True", "a comparison by =="),
        ("__import__('os').system('true')", "columns, numbers, texts"),
        ("quality.__class__ == 'x'", "columns, numbers, texts"),
        ("[x for x in rate_hz] == 1", "columns, numbers, texts"),
        ("(lambda: 1)() == 1", "columns, numbers, texts"),
        ("rate_hz[0] > 1", "columns, numbers, texts"),
        ("exp(rate_hz) > 1", "columns, numbers, texts"),
        ("sign(rate_hz, depth) > 1", "columns, numbers, texts"),
        ("abs(location) == 1", "a number, found 'location'"),
        ("2 ** 99 > rate_hz", "columns, numbers, texts"),
        ("", "an expression over columns of units"),
    ],
)
def test_anything_else_is_refused_in_one_line(expression, message) -> None:
    with pytest.raises(InputError) as error:
        chosen_units(expression, COLUMNS, "a.nwb")
    assert message in str(error.value)
    assert str(error.value).startswith("a.nwb: select: expected ")
    assert "\n" not in str(error.value)


def test_values_of_rows() -> None:
    columns = {
        "a": np.array([1, 2, 200, 3], np.uint8),
        "b": np.array([2, 1, 100, 3], np.uint8),
        "x": COLUMNS["rate_hz"],
    }
    value = lambda text: Expression.parse(text, "columns", "a.nwb", "target").values(columns)
    np.testing.assert_array_equal(value("a - b"), [-1, 1, 100, 0])  # where bytes have 255 for -1
    np.testing.assert_array_equal(value("a + b"), [3, 3, 300, 6])
    np.testing.assert_array_equal(value("sign(a-b)"), [-1, 1, 1, 0])
    np.testing.assert_array_equal(value("sign(1 - x)"), [1, -1, -1, 0])
    np.testing.assert_array_equal(value("abs(1 - x)"), [0.8, 4.0, 2.0, np.nan])
    np.testing.assert_array_equal(value("2"), [2, 2, 2, 2])
    assert value("sign(x)").dtype.kind == "i"


def test_columns_of_an_expression() -> None:
    found = Expression.parse("isnan(x) or abs(y-sign(x)) > 1 and not isnan(z)", "columns", "a.nwb", "target")
    assert found.names == {"x", "y", "z"}
    assert found.required == {"x", "y"}
    assert str(Expression.parse(" sign( a-b ) ", "columns", "a.nwb", "target")) == "sign(a - b)"
