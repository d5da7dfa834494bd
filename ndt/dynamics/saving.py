"""Fitted models on disk: ``model.safetensors`` has weights and scales, ``model.json`` what their shapes follow from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ndt.checkpoint import load_weights, read_json, save_weights, write_json
from ndt.dynamics.potentials import Scales
from ndt.errors import InputError
from ndt.settings import fill_config

__all__ = ["read_shape", "read_weights", "save_model"]

C = TypeVar("C")
SHAPE = ("config", "num_dims", "num_parameters", "periodic")


def save_model(folder: str | Path, method: str, model: nn.Module, scales: Scales, config: Any, **more: Any) -> Path:
    """Writes a model into a folder and returns it.

    Arguments:
        folder: Where to.
        method: Name that `read_shape` asks for.
        model: What has been fitted; `scales` are a part of it.
        scales: Scales of the data.
        config: Its settings.
        more: What else belongs into ``model.json``.
    """
    from ndt import __version__

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.state_dict(), folder / "model.safetensors")
    shape = {"num_dims": len(scales.centre), "num_parameters": len(scales.mu_mean)}
    periodic = torch.isfinite(scales.period).tolist()
    versions = {"ndt": __version__, "torch": torch.__version__}
    found = {"method": method, "versions": versions, "config": asdict(config), **shape, "periodic": periodic, **more}
    write_json(folder / "model.json", found)

    return folder


def read_shape(folder: str | Path, method: str, config: type[C]) -> tuple[C, Scales, dict[str, Any]]:
    """Returns settings, scales of the right shapes that `read_weights` fills, and all that ``model.json`` says.

    Raises:
        InputError: if the file is missing, of another method, or says not all that is needed.
    """
    path = Path(folder) / "model.json"
    found = read_json(path)
    if found.get("method") != method:
        raise InputError(path, "method", method, found.get("method", "none"))
    for name in SHAPE:
        if name not in found:
            raise InputError(path, name, "what a model's shape follows from", "nothing")
    d, p = int(found["num_dims"]), int(found["num_parameters"])
    period = np.where(found["periodic"], 1.0, np.inf)
    scales = Scales(np.zeros(d), np.ones(d), period, (0.0, 1.0), np.zeros((1, p)))

    return fill_config(config, found["config"], path, "config"), scales, found


def read_weights(model: nn.Module, folder: str | Path) -> None:
    """Reads weights and scales into a model, which is to be used and no longer fitted."""
    load_weights(model.requires_grad_(False).eval(), Path(folder) / "model.safetensors")
