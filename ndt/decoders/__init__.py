"""Decoders beside the network: ridge, Kalman filter, naive Bayes, GRU, controls; their ensemble, and input drift.

Imports: the nouns, `ndt.config`, `ndt.model` and `ndt.evaluation`.
"""

__all__: list[str] = []
