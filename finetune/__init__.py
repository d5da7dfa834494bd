"""Fine-tuning. The package is also the verb: ``ndt.finetune(base, …)`` calls `ndt.finetune.adapt.finetune`.

Imports: every room of `ndt`, and `ndt.data`; never `ndt.pretrain`.
"""

from ndt.verbs import callable_module

__all__: list[str] = []

callable_module(__name__, "ndt.finetune.adapt.finetune")
