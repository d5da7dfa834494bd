"""Modules that are called: ``ndt.embed`` is a module and a verb, whichever was asked for first."""

import sys
from types import ModuleType
from typing import Any

__all__ = ["callable_module"]


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from ndt import api

        return getattr(api, self.__name__.rpartition(".")[2])(*args, **kwargs)


def callable_module(name: str) -> None:
    """Lets the module of this name be called as the function of `ndt.api` that bears its last name."""
    sys.modules[name].__class__ = _Verb
