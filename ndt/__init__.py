"""Decoders, embeddings and dynamics from NWB recordings of spiking populations."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.api import Embeddings as Embeddings
    from ndt.api import embed as embed
    from ndt.api import evaluate as evaluate
    from ndt.api import ingest as ingest
    from ndt.api import inspect as inspect
    from ndt.api import read as read
    from ndt.api import recipe as recipe
    from ndt.api import report as report
    from ndt.api import simulate as simulate
    from ndt.architectures import load_model as load_model
    from ndt.data.store import Store as Store
    from ndt.model import NDT as NDT

__version__ = "0.1.0"
__all__ = [
    "NDT",
    "Embeddings",
    "Store",
    "__version__",
    "embed",
    "evaluate",
    "ingest",
    "inspect",
    "load_model",
    "read",
    "recipe",
    "report",
    "simulate",
]

_HOMES = {"NDT": "ndt.model", "Store": "ndt.data.store", "load_model": "ndt.architectures"}


def __getattr__(name: str) -> Any:
    """Imports on first use: ``import ndt`` costs no torch. Some names are modules that are called."""
    from importlib import import_module

    if name in ("data", "embed", "finetune", "pretrain", "report"):
        return import_module(f"ndt.{name}")
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "ndt.api")), name)
    raise AttributeError(f"module 'ndt' has no attribute {name!r}")
