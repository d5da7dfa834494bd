"""The training loop that pretraining and fine-tuning share: optimiser, resume, processes, logs.

Imports: the nouns, `ndt.config` and `ndt.model`.
"""

__all__: list[str] = []
