"""One target of a fine-tuned decoder, as its run directory has it: what its metrics and predictions mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.names import PREDICTORS, SCORES
from ndt.page import fixed
from ndt.runs import Decoder

__all__ = ["by_covariate", "digits_of", "dims_of", "directions", "kind_of", "known", "score_table", "unit_of"]

SHARED = ("time", "piece", "out_of_range")  # arrays of all covariates together

# C = columns


def by_covariate(decoder: Decoder) -> list[Decoder]:
    """Returns a decoder for each covariate that it decodes: metrics and predictions of that one under plain names."""
    m, p = decoder.metrics, decoder.predictions
    each = m.get("covariates") or {str(m["covariate"]): {}}
    shared = {name: p[name] for name in SHARED if name in p}
    found = []
    for i, (name, own) in enumerate(each.items()):
        begin = f"{name}/" if i else ""
        arrays = {key[len(begin) :]: p[key] for key in p if key.startswith(begin) and "/" not in key[len(begin) :]}
        metrics = {**m, **own} if i else {**own, **m}  # a demo adds its controls to the first, at the top level
        found.append(replace(decoder, metrics=metrics, predictions=shared | arrays))

    return found


def known(value: object) -> float:
    """Returns a number of metrics.json; NaN for null, and where there is none."""
    return float(value) if isinstance(value, int | float) else float("nan")


def kind_of(decoder: Decoder) -> str:
    """Returns ``continuous``, ``angle`` or ``class``."""
    return str(decoder.metrics.get("kind", "continuous"))


def unit_of(decoder: Decoder) -> str:
    """Returns the unit of half widths and of what is drawn; empty for classes."""
    given = str(decoder.predictions.get("unit", decoder.metrics.get("unit", "")))

    return {"continuous": given, "angle": "°"}.get(kind_of(decoder), "")


def dims_of(decoder: Decoder) -> list[str]:
    """Returns names of dimensions, of angles or of classes."""
    given: Sequence[Any] = decoder.metrics.get("dims") or ()
    dims = [str(d) for d in decoder.predictions.get("dims", given)]
    if kind_of(decoder) != "angle":
        return dims

    return [d[4:-1] if d.startswith("cos(") else d for d in dims[::2]]  # columns are cosine and sine of each


def digits_of(value: object) -> int:
    """Returns how many decimals make three digits."""
    size = abs(known(value))

    return max(0, 2 - math.floor(math.log10(size))) if size and math.isfinite(size) else 2


def score_table(m: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table of one target's predictors: ensemble weight, R², and errors by kind.

    Arguments:
        m: Metrics of the target: ``test``, ``network``, ``baselines``, ``weights``, ``kind``, ``unit``.
    """
    test, weights = m["test"], m.get("weights") or {}
    scored: dict[str, Mapping[str, Any]] = {"delivered": test, "network": m.get("network", {})} | m.get("baselines", {})
    columns = [c for c in SCORES[m.get("kind", "continuous")] if test.get(c[0]) is not None]
    rows = []
    for name in (*PREDICTORS, *(n for n in scored if n not in PREDICTORS)):
        found = scored.get(name, {})
        if found.get("r2") is not None or name in ("delivered", "network", *weights):
            cells = [fixed(found.get(key), digits_of(test[key]) if d is None else d) for key, _, d in columns]
            weight = fixed(weights[name], 2) if name in weights else ""
            rows.append([PREDICTORS.get(name, name), weight, fixed(found.get("r2")), *cells])
    if test.get("chance") is not None:
        always = [fixed(test["chance"]) if key == "accuracy" else "" for key, _, _ in columns]
        rows.append(["always the most frequent class", "", "", *always])
    heads = [heading.format(unit=m.get("unit") or "own unit") for _, heading, _ in columns]

    return ["predictor", "weight", "R²", *heads], rows


def directions(columns: NDArray[Any]) -> NDArray[np.float64]:
    """Returns directions in degrees from cosine and sine side by side.

    Example:
        >>> directions(np.array([[0.0, 2.0]]))
        array([[90.]])
    """
    return np.asarray(np.degrees(np.arctan2(columns[:, 1::2], columns[:, ::2])), np.float64)
