"""Simulated and published populations with known dynamics, for tests and benchmarks.

Imports: those of `ndt.dynamics`.
"""

__all__: list[str] = []
