"""Benchmarks, one a module; `ndt.bench` runs them by name."""

__all__: list[str] = []
