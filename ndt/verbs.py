"""Makes a package callable: ``ndt.pretrain`` is a package and a verb."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["callable_module"]


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, function = self._target.rpartition(".")

        return getattr(import_module(module), function)(*args, **kwargs)


def callable_module(name: str, target: str) -> None:
    """Makes a module callable as the function `target` (``module.name``), which is imported on the first call."""
    sys.modules[name].__class__ = _Verb
    sys.modules[name]._target = target  # type: ignore[attr-defined]
