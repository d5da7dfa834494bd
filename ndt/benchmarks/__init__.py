"""Benchmarks, one a module; `ndt.bench` runs them by name.

Imports: every room.
"""

__all__: list[str] = []
