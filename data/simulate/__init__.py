"""A simulated population with known truth, written as NWB files.

Imports: the nouns, `ndt.config` and `ndt.data.splits`.
"""

__all__: list[str] = []
