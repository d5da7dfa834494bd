"""The architectures of the transformer, by their names in settings."""

from pathlib import Path

from ndt.model.checkpoint import ModelSpec, find_model, read_spec
from ndt.model.ndt2 import NDT2, Quirks
from ndt.model.transformer import NDT

__all__ = ["ARCHITECTURES", "load_model", "new_model"]

ARCHITECTURES: dict[str, type[NDT]] = {"ndt": NDT, "ndt2": NDT2, "ndt2_quirks": Quirks}


def new_model(spec: ModelSpec) -> NDT:
    """Returns a new model of the architecture of its specification."""
    return ARCHITECTURES[spec.config.architecture](spec)


def load_model(name: str | Path, revision: str | None = None) -> NDT:
    """Loads a model of any architecture; arguments and errors as `NDT.from_pretrained`."""
    folder = find_model(name, revision)
    spec = read_spec(folder)

    return ARCHITECTURES[spec.config.architecture].from_pretrained(folder)
