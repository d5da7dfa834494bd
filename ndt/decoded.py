"""One covariate of a fine-tuned decoder, as its run directory has it: what its metrics and predictions mean."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.runs import Decoder

__all__ = ["by_covariate", "dims_of", "directions", "half_width", "kind_of", "known", "unit_of", "weights_of"]

SHARED = ("time", "piece", "out_of_range")  # arrays of all covariates together

# T = bins of the test block, C = columns, K = what has a half width


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


def weights_of(decoder: Decoder) -> dict[str, float]:
    """Returns the share of each predictor in what is delivered; nothing where the run does not say."""
    return {name: float(share) for name, share in decoder.metrics.get("weights", {}).items()}


def directions(columns: NDArray[Any]) -> NDArray[np.float64]:
    """Returns directions in degrees from cosine and sine side by side.

    Example:
        >>> directions(np.array([[0.0, 2.0]]))
        array([[90.]])
    """
    return np.asarray(np.degrees(np.arctan2(columns[:, 1::2], columns[:, ::2])), np.float64)


def half_width(decoder: Decoder) -> NDArray[np.float64] | None:
    """Returns half widths of the 90 % intervals at each bin, (T, K); None where the run has none."""
    found = decoder.predictions.get("half_width")

    return None if found is None else np.asarray(found, np.float64)
