"""Decoders, embeddings and dynamics from NWB recordings of spiking populations.

Its modules `session`, `spikes`, `intervals`, `segments`, `target` and `errors` are the nouns of the field; its packages
are rooms, and the docstring of each names its imports; `api`, `cli`, `demo`, `bench` and the like are the front.

Imports: the front imports every room, the nouns import each other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.api import embed as embed
    from ndt.api import recipe as recipe
    from ndt.api import report as report
    from ndt.data.ingest import ingest as ingest
    from ndt.data.inspect import inspect as inspect
    from ndt.data.reading import read as read
    from ndt.data.simulate.recordings import simulate as simulate
    from ndt.data.store import Store as Store
    from ndt.finetune.scoring import evaluate as evaluate
    from ndt.model.architectures import load_model as load_model
    from ndt.model.inference import Embeddings as Embeddings
    from ndt.model.transformer import NDT as NDT

_HOMES = {
    "NDT": "model.transformer",
    "Embeddings": "model.inference",
    "Store": "data.store",
    "embed": "api",
    "evaluate": "finetune.scoring",
    "ingest": "data.ingest",
    "inspect": "data.inspect",
    "load_model": "model.architectures",
    "read": "data.reading",
    "recipe": "api",
    "report": "api",
    "simulate": "data.simulate.recordings",
}
_MODULES = ("data", "finetune", "pretrain")  # the last two are called, too

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


def __getattr__(name: str) -> Any:
    """Imports on first use: ``import ndt`` costs no torch."""
    if name in _MODULES:
        return import_module(f"ndt.{name}")
    if name in _HOMES:
        return getattr(import_module(f"ndt.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ndt' has no attribute {name!r}")
