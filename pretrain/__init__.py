"""Masked pretraining. The package is also the verb: ``ndt.pretrain(store, …)`` calls `ndt.pretrain.train.pretrain`.

Imports: the nouns, `ndt.config`, `ndt.model`, `ndt.train`, `ndt.evaluation` and `ndt.data`; never `ndt.finetune`.
"""

from ndt.verbs import callable_module

__all__: list[str] = []

callable_module(__name__, "ndt.pretrain.train.pretrain")
