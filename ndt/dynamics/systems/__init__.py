"""Simulated and published populations with known dynamics, for tests and benchmarks."""

__all__: list[str] = []
