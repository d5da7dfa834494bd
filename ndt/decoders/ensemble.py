"""The final decoder: an ensemble of the network and other decoders, with prediction intervals and input drift.

A run directory holds the ensemble in ``ensemble.json`` and ``ensemble.safetensors`` beside the network's own files.
Loading runs no code from a file.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypedDict, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ndt.decoders.drift import InputDrift
from ndt.decoders.gru import GRU, Network
from ndt.decoders.logistic import TrialDecoder
from ndt.decoders.naive_bayes import CellBayes, NaiveBayes
from ndt.decoders.ridge import Ridge
from ndt.decoders.target_cells import Cells
from ndt.decoders.tcn import TCN, Convolutions
from ndt.errors import InputError
from ndt.evaluation.conformal import Conformal
from ndt.model.checkpoint import load_arrays, save_arrays, write_json
from ndt.parsing import ERRORS, read_json
from ndt.segments import Scaler, Segments
from ndt.target import Part, part_columns

__all__ = ["Ensemble", "PartEnsemble", "ensemble_weights", "flatten", "unflatten", "weighted_mean"]

FILE, ARRAYS = "ensemble.json", "ensemble.safetensors"
FORMAT = 3
ZERO = 1e-3  # smaller weights are rounding
TRIED = 3  # empty bins that a loaded ensemble must be able to predict
MOST = 100_000  # largest integer: bins of a window, steps of training

Rows = NDArray[np.floating]


def ensemble_weights(true: Rows, members: Mapping[str, Rows]) -> dict[str, float]:
    r"""Returns the weights, at least 0 and of sum 1, with the least squared error over all rows and columns.

    .. math:: \min_w \sum_{tc} \big(y_{tc} - \sum_m w_m \hat y_{m, tc}\big)^2, \quad w \ge 0, \quad \sum_m w_m = 1

    Each member alone is such an ensemble, so on these rows the ensemble's variance-weighted R² is at least theirs.

    Reference: Breiman (1996), Stacked regressions, https://doi.org/10.1007/BF00117832

    Arguments:
        true: Measured values, (R, C); rows with a NaN are unlabelled and left out.
        members: Predictions of each member, (R, C).

    Example:
        >>> y = np.array([[0.0], [1.0], [3.0]])
        >>> ensemble_weights(y, {"twice": 2 * y, "nothing": 0 * y})
        {'twice': 0.5, 'nothing': 0.5}
    """
    y = np.asarray(true, np.float64)
    known = ~np.isnan(y).any(1)
    errors = np.stack([(np.asarray(x, np.float64)[known] - y[known]).ravel() for x in members.values()], 1)
    scale = np.sqrt(np.mean(errors**2)) or 1.0
    # With weights of sum 1 the ensemble's error is the weighted mean of the members' errors; nnls with a row of ones
    # finds the weights up to a scale.
    gram = errors.T @ errors / (len(errors) * scale**2)
    half = np.linalg.cholesky(gram + 1e-9 * np.eye(len(gram)))  # equal members get equal weights
    stacked = np.vstack([half.T, np.ones(len(gram))])
    found, _ = nnls(stacked, np.r_[np.zeros(len(gram)), 1.0])
    weights = found / found.sum()
    weights = np.where(weights < ZERO, 0.0, weights)
    weights = np.round(weights / weights.sum(), 6)

    return dict(zip(members, map(float, weights), strict=True))


def weighted_mean(members: Mapping[str, Rows], weights: Mapping[str, float]) -> Rows:
    """Returns the weighted mean of the members' predictions, (R, C); a member of weight 0 may be missing."""
    return np.asarray(sum(w * np.asarray(members[name], np.float64) for name, w in weights.items() if w))


@dataclass(frozen=True, kw_only=True)
class PartEnsemble:
    """The decoder of one part of the target.

    Arguments:
        part: The part.
        weights: Ensemble weight of each member, of sum 1; ``network`` is one of them.
        members: The other members, by name.
        conformal: Its prediction intervals.
    """

    part: Part
    weights: dict[str, float]
    members: dict[str, TCN | Ridge | GRU | NaiveBayes | TrialDecoder]
    conformal: Conformal

    def predict(self, name: str, counts: Segments, since: Segments = ()) -> Rows:
        """Returns the predictions of a member, (R, C); arguments as of `Ensemble.predict`, `since` of this part."""
        member = self.members[name]
        found = member.predict(counts, since) if isinstance(member, TrialDecoder) else member.predict(counts)

        return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """All that decoding needs besides the network.

    Arguments:
        parts: One for each part of the target.
        unit_ids: Identity of each unit, in the order of the members' counts.
        input_drift: Statistics of the training counts, against which new counts are checked.
    """

    parts: tuple[PartEnsemble, ...]
    unit_ids: tuple[str, ...]
    input_drift: InputDrift

    def predict(self, network: Rows, counts: Segments, since: Sequence[Segments] = ()) -> Rows:
        """Returns predictions, (R, C), in the target's units; probabilities for classes. Causal if the network is.

        Arguments:
            network: The network's predictions, (R, C).
            counts: Counts with units in the order of `unit_ids`, one (T, N) a segment, R bins together; NaN where
                a unit was not observed.
            since: For each part, bins since its trial began (`TrialDecoder.predict`), one (T,) a segment; only those of
                parts with a label per trial are used.
        """
        out = np.full(network.shape, np.nan)
        for i, columns in enumerate(part_columns([p.part for p in self.parts])):
            ensemble = self.parts[i]
            own = since[i] if ensemble.part.per and since else ()
            weighted = [name for name in ensemble.members if ensemble.weights.get(name)]
            predicted = {name: ensemble.predict(name, counts, own) for name in weighted}
            out[:, columns] = weighted_mean(predicted | {"network": network[:, columns]}, ensemble.weights)

        return out

    def order(self, unit_ids: Sequence[str]) -> NDArray[np.int64]:
        """Returns the index of each of the ensemble's units in `unit_ids`, -1 if it is missing, (N,)."""
        index = {name: i for i, name in enumerate(unit_ids)}

        return np.array([index.get(name, -1) for name in self.unit_ids], np.int64)

    def arranged(self, counts: Segments, unit_ids: Sequence[str]) -> list[NDArray[np.float32]]:
        """Returns counts with the ensemble's units in its own order; missing units are not observed (NaN)."""
        order = self.order(unit_ids)
        padded = (np.pad(np.asarray(x, np.float32), ((0, 0), (0, 1)), constant_values=np.nan) for x in counts)

        return [x[:, order] for x in padded]  # -1 is the last column

    def save(self, folder: Path) -> None:
        """Writes ``ensemble.json`` and ``ensemble.safetensors``."""
        arrays: dict[str, NDArray[Any]] = {}
        found = flatten(self, arrays)
        save_arrays(arrays, folder / ARRAYS)
        write_json(folder / FILE, {"format": FORMAT, "ensemble": found})

    @classmethod
    def load(cls, folder: Path) -> "Ensemble":
        """Returns what `save` wrote.

        Raises:
            InputError: if the files are missing, or not of this format.
        """
        path = folder / FILE
        found = read_json(path, _Saved)
        if found["format"] != FORMAT:
            raise InputError(path, "format", str(FORMAT), found["format"])
        arrays = load_arrays(folder / ARRAYS)
        try:
            ensemble: Ensemble = unflatten(found["ensemble"], arrays)
            check_ensemble(ensemble)
        except InputError:
            raise
        except (*ERRORS, AssertionError, RuntimeError) as error:
            raise InputError(path, "content", "what `ndt finetune` writes", error) from error

        return ensemble


class _Saved(TypedDict):
    format: int
    ensemble: dict[str, Any]


def check_ensemble(found: Ensemble) -> None:
    """Raises ValueError unless fields have their types, weights are shares, and the ensemble can predict.

    Whether shapes fit together shows in a prediction of a few empty bins.
    """
    check_fields(found, Ensemble, "ensemble")
    if not found.parts or len(set(found.unit_ids)) < len(found.unit_ids):
        raise ValueError("parts and units: at least one part, each unit once")
    for p in found.parts:
        weights = list(p.weights.values())
        if not set(p.weights) <= {"network", *p.members}:
            raise ValueError(f"weights: of members, got {', '.join(p.weights)}")
        if not min(weights, default=-1.0) >= 0 or not abs(sum(weights) - 1) <= ZERO:  # NaN is neither
            raise ValueError(f"weights: at least 0, of sum 1, got {p.weights}")
        if p.conformal.kind != p.part.kind:
            raise ValueError(f"conformal: of kind {p.part.kind}, got {p.conformal.kind}")
    counts, since = [np.zeros((TRIED, len(found.unit_ids)), np.float32)], [np.arange(TRIED)]
    for p in found.parts:
        rows = np.zeros((TRIED, p.part.num_columns))
        for name in p.members:
            decoded = p.predict(name, counts, since)
            if decoded.shape != rows.shape or not np.isfinite(decoded).all():
                raise ValueError(f"{name}: finite predictions {rows.shape}, got {decoded.shape}, or others")
        half = p.conformal.half_width(rows)
        if half.shape != (TRIED, p.part.num_columns // (2 if p.part.kind == "angle" else 1)) and p.part.kind != "class":
            raise ValueError(f"conformal: a half width of each dimension, got {half.shape}")
        if np.isnan(half).any() or (half < 0).any():
            raise ValueError("conformal: half widths of at least 0")
    found.input_drift.check(counts)


STORED = (
    CellBayes, Cells, Conformal, Ensemble, GRU, InputDrift, NaiveBayes, Part, PartEnsemble, Ridge, Scaler, TCN,
    TrialDecoder,
)  # fmt: skip
NETWORKS = (Network, Convolutions)
# Arrays that may hold NaN (of units that were never observed) or infinity (units that fired too rarely to be silent,
# classes without a training trial); all others are finite.
LOOSE = ("input_drift/mean", "input_drift/silence", "/intercept")
CLASSES: dict[str, Any] = {cls.__name__: cls for cls in STORED} | {cls.__name__: cls.of for cls in NETWORKS}


def flatten(value: Any, arrays: dict[str, NDArray[Any]], name: str = "") -> Any:
    """Returns the JSON form of a value; its arrays go to `arrays`, each under the path of fields that leads to it.

    A dataclass becomes a dict with its class name under ``class``; so do a network, an array and a number that
    is not finite. Tuples become lists.
    """

    def inner(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        return {key: flatten(v, arrays, f"{name}/{key}" if name else str(key)) for key, v in items}

    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"class": "array", "name": name}
    if isinstance(value, NETWORKS):
        weights = {key: w.numpy().copy() for key, w in value.state_dict().items()}
        return {"class": type(value).__name__, "weights": inner(weights.items())}
    if is_dataclass(value):
        return {"class": type(value).__name__} | inner((f.name, getattr(value, f.name)) for f in fields(value))
    if isinstance(value, dict):
        return inner(value.items())
    if isinstance(value, tuple):
        return list(inner(enumerate(value)).values())
    if isinstance(value, float) and not math.isfinite(value):
        return {"class": "float", "value": str(value)}

    return value


def unflatten(found: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Returns the value that `flatten` took apart; lists become tuples."""
    if isinstance(found, list):
        return tuple(unflatten(v, arrays) for v in found)
    if not isinstance(found, dict):
        return found
    values = {key: unflatten(v, arrays) for key, v in found.items()}
    name = values.pop("class", None)
    if name == "array":
        return arrays[values["name"]]
    if name == "float":
        return float(values["value"])

    return values if name is None else CLASSES[name](**values)


def check_fields(found: Any, kind: Any, name: str) -> None:
    """Raises ValueError unless a value is of a kind: nested dataclasses, arrays of numbers, networks, plain values.

    Numbers may be infinite or NaN where decoders use that; `check_ensemble` sees whether predictions are finite.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if not isinstance(found, inner):
            raise ValueError(f"{name}: one of {', '.join(k.__name__ for k in inner)}, got {type(found).__name__}")
        check_fields(found, type(found), name)
    elif origin is np.ndarray:
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
            raise ValueError(f"{name}: an array of numbers, got {type(found).__name__}")
        if not np.isfinite(found).all() and not name.endswith(LOOSE):
            raise ValueError(f"{name}: finite numbers, got others")
    elif origin in (tuple, dict):
        if not isinstance(found, origin):
            raise ValueError(f"{name}: {'a list' if origin is tuple else 'names and values'}, got {found!r:.80}")
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            check_fields(value, inner[1] if origin is dict else inner[0], f"{name}/{key}")
    elif isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(found, kind):
            raise ValueError(f"{name}: {getattr(kind, '__name__', kind)}, got {type(found).__name__}")
        for field, hint in get_type_hints(kind).items():
            check_fields(getattr(found, field), hint, f"{name}/{field}")
    else:
        _check_plain(found, kind, name)


def _check_plain(found: Any, kind: Any, name: str) -> None:
    allowed = (int, float) if kind is float else kind
    if not isinstance(found, allowed) or (isinstance(found, bool) and kind is not bool):
        raise ValueError(f"{name}: {kind.__name__}, got {found!r:.80}")
    if kind is int and not 0 <= found <= MOST:
        raise ValueError(f"{name}: 0 to {MOST}, got {found}")
