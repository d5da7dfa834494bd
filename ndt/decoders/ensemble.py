"""The final decoder: an ensemble of the network and other decoders, with prediction intervals and input drift.

A run directory holds the ensemble in ``ensemble.json`` and ``ensemble.safetensors`` beside the network's own files.
Loading runs no code from a file.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

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
from ndt.model.checkpoint import load_arrays, read_json, save_arrays, write_json
from ndt.segments import Scaler, Segments
from ndt.target import Part, part_columns

__all__ = ["Ensemble", "PartEnsemble", "ensemble_weights", "flatten", "unflatten", "weighted_mean"]

FILE, ARRAYS = "ensemble.json", "ensemble.safetensors"
FORMAT = 3
ZERO = 1e-3  # smaller weights are rounding

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
            weighted = {name: m for name, m in ensemble.members.items() if ensemble.weights.get(name)}
            inputs = (counts, since[i]) if ensemble.part.per and weighted else (counts,)
            predicted = {name: np.concatenate(member.predict(*inputs)) for name, member in weighted.items()}
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
        found = read_json(folder / FILE)
        if found.get("format") != FORMAT:
            raise InputError(folder / FILE, "format", str(FORMAT), found.get("format", "none"))
        arrays = load_arrays(folder / ARRAYS)
        try:
            ensemble: Ensemble = unflatten(found["ensemble"], arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(folder / FILE, "content", "what `ndt finetune` writes", error) from error

        return ensemble


STORED = (
    CellBayes, Cells, Conformal, Ensemble, GRU, InputDrift, NaiveBayes, Part, PartEnsemble, Ridge, Scaler, TCN,
    TrialDecoder,
)  # fmt: skip
NETWORKS = (Network, Convolutions)
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
