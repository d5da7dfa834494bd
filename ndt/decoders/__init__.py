"""Baseline decoders (ridge, Kalman filter, naive Bayes, GRU), controls, the ensemble with the network, input drift.

Imports: the nouns, `ndt.config`, `ndt.model` and `ndt.evaluation`.
"""

__all__: list[str] = []
