"""Scores of decoders and models: R², likelihoods, bootstrap errors, conformal intervals, Neural Latents Benchmark.

Imports: the nouns, `ndt.config` and `ndt.model`.
"""

__all__: list[str] = []
