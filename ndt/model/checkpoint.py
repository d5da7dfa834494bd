"""Models on disk: weights in safetensors, everything else in JSON. Loading never runs code from a file."""

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from ndt.config import ModelConfig
from ndt.errors import InputError
from ndt.model.vocabulary import Vocabulary
from ndt.target import Part, Target, part_columns

__all__ = [
    "TargetSpec",
    "ModelSpec",
    "find_model",
    "load_arrays",
    "load_weights",
    "read_json",
    "save_arrays",
    "save_config",
    "save_weights",
    "write_json",
]

FORMAT = 6  # of model.json


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """Target of a decoder, and its standardisation on the training split.

    Arguments:
        name: Name of the target; several are separated by commas.
        dims: Names of the C columns of all parts: cosine and sine of an angle, one column for each class.
        unit: Physical unit; several are separated by commas.
        mean: Mean of each column; 0 for classes.
        std: Standard deviation of each column, positive; 1 for classes.
        parts: Parts of the target.
        lag: Seconds by which the target follows the spikes; negative if the estimate is late.
        auxiliary: Parts of the auxiliary targets, which are trained on but not predicted.
    """

    name: str
    dims: tuple[str, ...]
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parts: tuple[Part, ...]
    lag: float = 0.0
    auxiliary: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        assert self.dims == tuple(c for part in self.parts for c in part.columns), "dims are the columns of the parts"

    @classmethod
    def fitted(
        cls, target: Target, rows: NDArray[np.bool_], where: str, known: "TargetSpec | None" = None
    ) -> "TargetSpec":
        """Returns the specification of a target, standardised on the labelled bins among `rows`, (R,).

        Arguments:
            target: The target.
            rows: Bins of the training split, (R,).
            where: Name of the session in errors.
            known: Target of a pretrained model: parts that it has keep its standardisation, since their heads are kept.

        Raises:
            InputError: if a part has no label in these bins, a dimension that does not vary, or an absent class.
        """
        mean, std = np.zeros((2, target.values.shape[1]))
        for i, part in enumerate(target.parts):
            columns = target.columns(i)
            if known is not None and part in known.parts and known.lag == target.lag:
                own = part_columns(known.parts)[known.parts.index(part)]
                mean[columns], std[columns] = known.mean[own], known.std[own]
                continue
            values = target.values[rows, columns]
            values = values[~np.isnan(values).any(1)]
            _check_labels(part, values, where)
            if part.kind == "class":
                std[columns] = 1.0
            else:
                mean[columns], std[columns] = values.mean(0), values.std(0)

        return cls(
            name=target.name,
            dims=tuple(c for part in target.parts for c in part.columns),
            unit=",".join(part.unit for part in target.parts).strip(","),
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            parts=target.parts,
            lag=target.lag,
        )

    def adopt(self, target: Target) -> Target | None:
        """Returns a target with columns of this one, which may have more classes and parts; None if they differ."""
        parts = []
        for part in target.parts if self.lag == target.lag else ():
            for own in self.parts:
                fewer = (
                    part.kind == "class" and set(part.dims) <= set(own.dims) and replace(own, dims=part.dims) == part
                )
                if own == part or fewer:
                    parts.append(own)
                    break

        return target.expanded(parts) if len(parts) == len(target.parts) else None

    def standardise(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns standardised values, (R, C); 1 and 0 of classes stay."""
        return ((values - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns outputs of a model, (R, C), in the target's unit, and logits of classes as probabilities."""
        found = values * np.array(self.std) + np.array(self.mean)
        for part, columns in zip(self.parts, part_columns(self.parts), strict=True):
            if part.kind == "class":
                found[:, columns] = softmax(found[:, columns], axis=1)

        return found.astype(np.float32)


def _check_labels(part: Part, values: NDArray[np.float32], where: str) -> None:
    """Raises if a part cannot be learned from these labels, (R, C)."""
    if not len(values):
        raise InputError(where, part.name, "a label on the training split", "none")
    if part.kind != "class":
        if not np.all((std := values.std(0)) > 0):
            raise InputError(where, part.name, "a target that varies on the training split", f"std {std}")
    elif part.num_columns < 2:
        raise InputError(where, part.name, "at least two classes", ", ".join(part.dims) or "none")
    elif missing := [name for name, times in zip(part.dims, values.sum(0), strict=True) if not times]:
        expected = f"each of {part.num_columns} classes on the training split (or more seconds of it)"
        raise InputError(where, part.name, expected, f"none of {', '.join(missing[:5])}")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Specification of a model: everything except its weights.

    Arguments:
        config: Architecture.
        vocabulary: Names of the rows of its tables.
        bin_size: Bin width in seconds.
        window_bins: Longest training window, in bins.
        target: Target that is decoded; None for a model of spikes alone.
        data: SHA-256 of the source of each training session, by session id.
    """

    config: ModelConfig
    vocabulary: Vocabulary
    bin_size: float
    window_bins: int
    target: TargetSpec | None = None
    data: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts that have a head: those of the target, then auxiliary ones."""
        return () if self.target is None else (*self.target.parts, *self.target.auxiliary)

    def to_json(self) -> dict[str, Any]:
        """Returns the specification as JSON."""
        from ndt import __version__

        return {"format": FORMAT, "versions": {"ndt": __version__, "torch": torch.__version__}, **asdict(self)}

    @classmethod
    def from_json(cls, where: Path, found: dict[str, Any]) -> "ModelSpec":
        """Reads what `to_json` wrote.

        Raises:
            InputError: if the format or the fields differ from those of this version.
        """
        if found.get("format") != FORMAT:
            raise InputError(where, "format", f"model format {FORMAT}", found.get("format", "none"))
        try:
            return cls(
                config=ModelConfig(**found["config"]),
                vocabulary=Vocabulary(**{k: tuple(map(_tuples, v)) for k, v in found["vocabulary"].items()}),
                bin_size=float(found["bin_size"]),
                window_bins=int(found["window_bins"]),
                target=None if found["target"] is None else _target(found["target"]),
                data=dict(found["data"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(where, "architecture", "the fields that this version knows", error) from error


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(value) if isinstance(value, list) else value


def _target(found: dict[str, Any]) -> TargetSpec:
    fields: dict[str, Any] = {k: _tuples(v) for k, v in found.items()}
    for name in ("parts", "auxiliary"):
        fields[name] = tuple(Part(**{k: _tuples(v) for k, v in part.items()}) for part in found[name])

    return TargetSpec(**fields)


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """Returns the folder of a model, or of its download from the Hugging Face Hub for ``hf:ORG/NAME``.

    Only that prefix leads to the network: a misspelt folder must not.

    Raises:
        InputError: if there is no such folder, or no such model on the Hub.
    """
    hub = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)", str(name), re.ASCII)
    if hub is None:
        if Path(name).is_dir():
            return Path(name)
        found = "a file" if Path(name).exists() else "no such folder"
        raise InputError(name, "model", "a run directory, or hf:ORG/NAME for a model on the Hugging Face Hub", found)
    from huggingface_hub import snapshot_download

    try:
        allowed = ["model.json", "model.safetensors"]
        return Path(snapshot_download(hub[1], revision=revision, allow_patterns=allowed))
    except Exception as error:  # the hub raises a dozen types
        raise InputError(name, "model", "a model on the Hugging Face Hub", error) from error


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Loads weights into a model.

    Raises:
        InputError: if the file is missing or not safetensors, or names or shapes differ from the model's.
    """
    weights = _tensors(path)
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    stored = {k: tuple(v.shape) for k, v in weights.items()}
    if own != stored:
        name = sorted(k for k in own.keys() | stored.keys() if own.get(k) != stored.get(k))[0]
        expected = f"shape {own.get(name, 'absent')} of this architecture"
        raise InputError(path, name, expected, stored.get(name, "absent"))
    model.load_state_dict(weights)


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes tensors to a temporary file and renames it, so that a crash leaves no partial file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)
    os.replace(temporary, path)


def save_arrays(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Writes arrays as safetensors, like `save_weights`."""
    save_weights({k: torch.from_numpy(np.array(v, order="C")) for k, v in arrays.items()}, path)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads arrays from safetensors; raises an InputError if the file is missing or not safetensors."""
    return {k: v.numpy() for k, v in _tensors(path).items()}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(path, "content", "a safetensors file", error) from error


def save_config(run: Path, config: Any, store: Path) -> None:
    """Writes a run's resolved configuration, and the path of its store."""
    plain = asdict(config, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    write_json(run / "run.json", {"store": str(store.resolve())})


def write_json(path: Path, found: Any) -> None:
    """Writes JSON to a temporary file and renames it. NaN and infinity become null, which JSON has."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}", delete=False) as file:
        json.dump(_finite(found), file, indent=1)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def read_json(path: Path) -> Any:
    """Reads JSON; raises an InputError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(path, "content", "a JSON file", error) from error


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {k: _finite(v) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(v) for v in found]
    if isinstance(found, np.generic):
        found = found.item()

    return None if isinstance(found, float) and not np.isfinite(found) else found
