"""Models on disk: weights in safetensors, everything else in JSON. Loading runs no code from a file."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ndt.config import ModelConfig
from ndt.errors import InputError
from ndt.session import Covariate
from ndt.vocabulary import Vocabulary

__all__ = [
    "CovariateSpec",
    "ModelSpec",
    "load_weights",
    "read_json",
    "save_config",
    "save_weights",
    "sha256",
    "write_json",
]

FORMAT = 3  # of model.json


@dataclass(frozen=True, kw_only=True)
class CovariateSpec:
    """What a decoder decodes, and how it was standardised on the training block.

    Arguments:
        name: Covariate name.
        dims: Names of the C dimensions; of an angle, its cosine and sine.
        unit: Physical unit.
        mean: Mean of each dimension.
        std: Standard deviation of each dimension, positive.
    """

    name: str
    dims: tuple[str, ...]
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fitted(cls, covariate: Covariate, values: NDArray[np.float32], where: str) -> "CovariateSpec":
        """Returns that of a covariate resampled to bins, (R, C); bins with NaN do not count.

        Raises:
            InputError: if a dimension does not vary.
        """
        values = values[~np.isnan(values).any(1)]
        std = values.std(0) if len(values) else np.zeros(values.shape[1])
        if not np.all(std > 0):
            raise InputError(where, covariate.name, "a covariate that varies on the training block", f"std {std}")
        dims = covariate.dims

        return cls(
            name=covariate.name,
            dims=tuple(f"{f}({d})" for d in dims for f in ("cos", "sin")) if covariate.angular else tuple(dims),
            unit="" if covariate.angular else covariate.unit,
            mean=tuple(map(float, values.mean(0))),
            std=tuple(map(float, std)),
        )

    def same(self, other: "CovariateSpec") -> bool:
        """Whether both mean the same quantity, however standardised."""
        return (self.name, self.dims, self.unit) == (other.name, other.dims, other.unit)

    def standardise(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (R, C) values in standard deviations from the mean."""
        return ((values - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns standardised (R, C) values in their unit."""
        return (values * np.array(self.std) + np.array(self.mean)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything about a model but its weights.

    Arguments:
        config: Architecture.
        vocabulary: Names of the rows of its tables.
        bin_size: Bin width in seconds.
        window_bins: Longest window that it was trained on, in bins.
        covariate: What it decodes; None before fine-tuning.
        data: Sessions that it was trained on, by id: SHA-256 of the source.
    """

    config: ModelConfig
    vocabulary: Vocabulary
    bin_size: float
    window_bins: int
    covariate: CovariateSpec | None = None
    data: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the specification as JSON."""
        from ndt import __version__

        return {"format": FORMAT, "versions": {"ndt": __version__, "torch": torch.__version__}, **asdict(self)}

    @classmethod
    def from_json(cls, where: Path, found: dict[str, Any]) -> "ModelSpec":
        """Reads what `to_json` wrote.

        Raises:
            InputError: if the format is another, or the architecture has other fields than this version's.
        """
        if found.get("format") != FORMAT:
            raise InputError(where, "format", f"model format {FORMAT}", found.get("format", "none"))
        try:
            covariate: dict[str, Any] | None = found["covariate"]
            if covariate is not None:
                covariate = {k: tuple(v) if isinstance(v, list) else v for k, v in covariate.items()}
            return cls(
                config=ModelConfig(**found["config"]),
                vocabulary=_vocabulary(found["vocabulary"]),
                bin_size=float(found["bin_size"]),
                window_bins=int(found["window_bins"]),
                covariate=None if covariate is None else CovariateSpec(**covariate),
                data=dict(found["data"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(where, "architecture", "the fields that this version knows", error) from error


def _vocabulary(found: dict[str, Any]) -> Vocabulary:
    return Vocabulary(
        units=tuple(found["units"]),
        contexts=tuple(found["contexts"]),
        places=tuple(found["places"]),
        unit_places=tuple((int(a), int(b)) for a, b in found["unit_places"]),
        unit_depths=tuple(map(float, found["unit_depths"])),
    )


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Loads weights into a model.

    Raises:
        InputError: if the file is missing or not safetensors, or names or shapes differ from the model's.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(path, "weights", "a safetensors file", error) from error
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    stored = {k: tuple(v.shape) for k, v in weights.items()}
    if own != stored:
        name = sorted(k for k in own.keys() | stored.keys() if own.get(k) != stored.get(k))[0]
        expected = f"shape {own.get(name, 'absent')} of this architecture"
        raise InputError(path, name, expected, stored.get(name, "absent"))
    model.load_state_dict(weights)


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes tensors beside their place and renames, so that a crash leaves no half file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)
    os.replace(temporary, path)


def save_config(run: Path, config: Any, store: Path) -> None:
    """Writes a run's resolved configuration, and where its store is."""
    plain = asdict(config, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    write_json(run / "run.json", {"store": str(store.resolve())})


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, found: Any) -> None:
    """Writes JSON beside its place and renames. NaN becomes null: it is not JSON."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}", delete=False) as file:
        json.dump(_finite(found), file, indent=1)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        InputError: if the file is missing or not JSON.
    """
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
