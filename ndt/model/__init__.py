"""The transformer: tokens, packed attention, encoder, heads, and checkpoints. NDT2 as published is `ndt.model.ndt2`.

Imports: the nouns and `ndt.config`.
"""

__all__: list[str] = []
