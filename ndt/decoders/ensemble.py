"""The decoder that is delivered: a network and its peers blended, with intervals, and a watch on the input.

It is all that a laboratory needs beside the network's own folder to decode with what was scored: ``ensemble.json`` and
``ensemble.safetensors`` there. Loading runs no code from a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ndt.decoders.blend import combined
from ndt.decoders.drift import InputDrift
from ndt.errors import InputError
from ndt.evaluation.conformal import Conformal
from ndt.model.checkpoint import load_arrays, read_json, save_arrays, write_json
from ndt.segments import Array, Segments
from ndt.target import Part

__all__ = ["Ensemble", "PartEnsemble"]

FILE, ARRAYS = "ensemble.json", "ensemble.safetensors"
FORMAT = 1

Rows = NDArray[np.floating]


class Member(Protocol):
    """A fitted decoder of one part."""

    def predict(self, counts: Segments) -> list[Array]:
        """Returns targets, one (T, C) a segment."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all of it as arrays by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class PartEnsemble:
    """How one part is decoded.

    Arguments:
        part: What.
        columns: Its columns among those of the network.
        weights: Share of each member in the mean, of sum 1; ``network`` is one of them.
        members: The other members, by name.
        conformal: Its intervals.
    """

    part: Part
    columns: slice
    weights: dict[str, float]
    members: dict[str, Member]
    conformal: Conformal


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What is delivered beside the network.

    Arguments:
        parts: One for each part that is decoded.
        unit_ids: Identity of each unit, in the order of the peers' counts.
        input_drift: The range of counts that all was fitted on.
    """

    parts: tuple[PartEnsemble, ...]
    unit_ids: tuple[str, ...]
    input_drift: InputDrift

    def predict(self, network: Rows, counts: Segments) -> Rows:
        """Returns what is delivered, (R, C), in its unit, classes as probabilities. Causal where the network is.

        Arguments:
            network: What the network decodes, (R, C).
            counts: Counts with units in the order of `unit_ids`, one (T, N) a segment, R bins together; NaN where a unit
                was not observed.
        """
        out = np.full(network.shape, np.nan)
        for part_ensemble in self.parts:
            members = {"network": network[:, part_ensemble.columns]}
            for name, peer in part_ensemble.members.items():
                if part_ensemble.weights.get(name):
                    members[name] = np.concatenate(peer.predict(counts))
            out[:, part_ensemble.columns] = combined(members, part_ensemble.weights)

        return out

    def order(self, unit_ids: Sequence[str]) -> NDArray[np.int64]:
        """Returns where each of its own units is among others, -1 where it is missing, (N,)."""
        place = {name: i for i, name in enumerate(unit_ids)}

        return np.array([place.get(name, -1) for name in self.unit_ids], np.int64)

    def arranged(self, counts: Segments, unit_ids: Sequence[str]) -> list[NDArray[np.float32]]:
        """Returns counts with its own units in its own order: those that are missing are not observed (NaN)."""
        order = self.order(unit_ids)
        padded = (np.pad(np.asarray(x, np.float32), ((0, 0), (0, 1)), constant_values=np.nan) for x in counts)

        return [x[:, order] for x in padded]  # -1 is the last column

    def save(self, folder: Path) -> None:
        """Writes ``ensemble.json`` and ``ensemble.safetensors``."""
        arrays: dict[str, NDArray[Any]] = {}
        parts = []
        for i, part_ensemble in enumerate(self.parts):
            for name, peer in part_ensemble.members.items():
                arrays |= {f"{i}/{name}/{key}": value for key, value in peer.arrays().items()}
            columns, conformal = (
                [part_ensemble.columns.start, part_ensemble.columns.stop],
                part_ensemble.conformal.to_json(),
            )
            known = {"part": vars(part_ensemble.part), "columns": columns, "weights": part_ensemble.weights}
            parts.append({**known, "members": list(part_ensemble.members), "conformal": conformal})
        save_arrays(arrays, folder / ARRAYS)
        found = {"format": FORMAT, "unit_ids": list(self.unit_ids), "input_drift": self.input_drift.to_json()}
        write_json(folder / FILE, {**found, "parts": parts})

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
            parts = tuple(_part(i, known, arrays) for i, known in enumerate(found["parts"]))
            watch = InputDrift.from_json(found["input_drift"])
            return cls(parts=parts, unit_ids=tuple(found["unit_ids"]), input_drift=watch)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(folder / FILE, "content", "what `ndt finetune` writes", error) from error


def _part(i: int, known: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> PartEnsemble:
    from ndt.decoders.gru import GRU
    from ndt.decoders.naive_bayes import NaiveBayes
    from ndt.decoders.ridge import Ridge

    kinds: dict[str, Any] = {"ridge": Ridge, "gru": GRU, "naive_bayes": NaiveBayes}
    members: dict[str, Member] = {}
    for name in known["members"]:
        begin = f"{i}/{name}/"
        own = {key.removeprefix(begin): value for key, value in arrays.items() if key.startswith(begin)}
        members[name] = kinds[name].from_arrays(own)
    part: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in known["part"].items()}

    return PartEnsemble(
        part=Part(**part),
        columns=slice(*known["columns"]),
        weights={name: float(weight) for name, weight in known["weights"].items()},
        members=members,
        conformal=Conformal.from_json(known["conformal"]),
    )
