"""Fine-tuning. The package is also the verb: ``ndt.finetune(base, …)`` calls `ndt.finetune.adapt.finetune`."""

import sys
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from ndt.api import finetune

        return finetune(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
