"""Models on disk: weights in safetensors, everything else in JSON. Loading never runs code from a file."""

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from ndt.config import ModelConfig
from ndt.errors import InputError
from ndt.model.vocabulary import CONTEXT_KINDS, Vocabulary
from ndt.parsing import ERRORS, check_regular, read_json
from ndt.schema import Positive, Within, typed
from ndt.target import Part, Target, part_columns

__all__ = [
    "MOST_BINS",
    "TargetSpec",
    "ModelSpec",
    "check_like",
    "find_model",
    "load_arrays",
    "load_tensors",
    "load_weights",
    "read_spec",
    "save_arrays",
    "save_config",
    "save_weights",
    "shapes_of",
    "write_json",
]

FORMAT = 6  # of model.json
MOST_BINS = 100_000  # of a window


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
    std: tuple[Positive, ...]
    parts: tuple[Part, ...]
    lag: float = 0.0
    auxiliary: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        assert self.parts, "a target has parts"
        assert self.dims == tuple(c for part in self.parts for c in part.columns), "dims are the columns of the parts"
        assert len(self.mean) == len(self.std) == len(self.dims), "a mean and a standard deviation for each of dims"

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
    bin_size: Annotated[float, Within(1e-4, 10)]
    window_bins: Annotated[int, Within(1, MOST_BINS)]
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
    def from_json(cls, where: str | Path, found: Mapping[str, Any]) -> "ModelSpec":
        """Reads what `to_json` wrote.

        Raises:
            InputError: if the format or the fields differ from those of this version, or a value is out of range.
        """
        if found["format"] != FORMAT:
            raise InputError(where, "format", f"model format {FORMAT}", found["format"])
        own = {key: value for key, value in found.items() if key not in ("format", "versions")}
        spec: ModelSpec = typed(cls, own, where, "architecture")
        _check_vocabulary(spec.vocabulary, where)

        return spec


class _Saved(TypedDict):
    """What every model.json holds, of whatever version."""

    format: int


def read_spec(folder: Path) -> ModelSpec:
    """Reads a specification from the model.json of a folder.

    Raises:
        InputError: as of `ModelSpec.from_json`, or if the folder's weights are too few for the architecture.
    """
    path = folder / "model.json"
    spec = ModelSpec.from_json(path, read_json(path, _Saved))
    c, stored = spec.config, sum(map(math.prod, shapes_of(folder / "model.safetensors").values()))
    if stored < (least := c.num_layers * (4 + 2 * c.feedforward) * c.width**2):  # before memory is taken for them
        expected = f"an architecture of at most the {stored:,} weights of model.safetensors"
        raise InputError(path, "architecture.config", expected, f"one of at least {least:,}")

    return spec


def _check_vocabulary(vocabulary: Vocabulary, path: str | Path) -> None:
    """Raises if the names of the rows do not fit together: each once, with as many sites and depths as units."""
    units, sites = vocabulary.units, vocabulary.unit_sites
    kinds = {name.partition(":")[0] for name in vocabulary.contexts}
    lengths = {len(sites), len(vocabulary.unit_depths)} - {0}  # none are known: all empty
    wrong = {
        "units": "" if lengths <= {len(units)} else "a site and a depth each",
        "unit_sites": "" if all(0 <= i < len(vocabulary.sites) for pair in sites for i in pair) else "rows of sites",
        "contexts": "" if kinds <= set(CONTEXT_KINDS) else f"names that begin with {', '.join(CONTEXT_KINDS)}",
    }
    for name in ("units", "sites", "contexts"):
        if len(set(getattr(vocabulary, name))) < len(getattr(vocabulary, name)):
            wrong[name] = "each name once"
    for name, expected in wrong.items():
        if expected:
            raise InputError(path, f"vocabulary.{name}", expected, "others")


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


def load_weights(model: torch.nn.Module, path: Path, unbounded: tuple[str, ...] = ()) -> None:
    """Loads weights into a model.

    Arguments:
        model: The model.
        path: The file.
        unbounded: Ends of the names of tensors that may hold infinity.

    Raises:
        InputError: if the file is missing or not safetensors, names, shapes or types of numbers differ from the
            model's, a number is not finite, or a standard deviation (``…_std``) is not above 0.
    """
    weights, own = load_tensors(path, unbounded), model.state_dict()
    check_like(weights, own, path)
    for name, tensor in weights.items():
        if name.endswith("_std") and not (tensor > 0).all():
            raise InputError(path, name, "standard deviations above 0", float(tensor.min()))
    model.load_state_dict(weights)


def check_like(found: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises an InputError unless tensors have the names, shapes and types of numbers of others."""
    own, stored = ({k: (tuple(v.shape), v.dtype) for k, v in some.items()} for some in (like, found))
    if own != stored:
        name = sorted(k for k in own.keys() | stored.keys() if own.get(k) != stored.get(k))[0]
        expected, there = (
            "none of that name" if name not in some else f"{some[name][1]} of shape {some[name][0]}"
            for some in (own, stored)
        )
        raise InputError(path, name, f"{expected}, as in this architecture", there)


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes tensors to a temporary file and renames it, so that a crash leaves no partial file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)
    os.replace(temporary, path)


def save_arrays(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Writes arrays as safetensors, like `save_weights`."""
    save_weights({k: torch.from_numpy(np.array(v, order="C")) for k, v in arrays.items()}, path)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads arrays from safetensors, which may hold infinity and NaN; errors as of `load_tensors`."""
    return {k: v.numpy() for k, v in load_tensors(path, None).items()}


def load_tensors(path: Path, unbounded: tuple[str, ...] | None = ()) -> dict[str, torch.Tensor]:
    """Reads tensors from safetensors.

    Arguments:
        path: The file.
        unbounded: Ends of the names of tensors that may hold infinity, but not NaN; with None, all may hold both.

    Raises:
        InputError: if the file is missing or not safetensors, or a number is not finite.
    """
    check_regular(path, "a safetensors file")
    try:
        found = load_file(path)
    except (OSError, SafetensorError, *ERRORS) as error:
        raise InputError(path, "content", "a safetensors file", error) from error
    if unbounded is None:
        return found
    for name, tensor in found.items():
        wrong = tensor.isnan() if name.endswith(unbounded) else ~tensor.isfinite()
        if wrong.any():
            raise InputError(path, name, "finite numbers", f"{int(wrong.sum())} others")

    return found


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors of a safetensors file, of which only the head is read."""
    check_regular(path, "a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError, *ERRORS) as error:
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


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {k: _finite(v) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(v) for v in found]
    if isinstance(found, np.generic):
        found = found.item()

    return None if isinstance(found, float) and not np.isfinite(found) else found
