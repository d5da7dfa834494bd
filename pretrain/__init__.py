"""Masked pretraining. The package is also the verb: ``ndt.pretrain(store, …)`` calls `ndt.pretrain.train.pretrain`."""

import sys
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from ndt.api import pretrain

        return pretrain(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
