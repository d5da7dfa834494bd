"""A simulated population with known truth, written as NWB files.

Imports: the nouns and `ndt.config`.
"""

__all__: list[str] = []
