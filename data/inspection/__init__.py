"""Contents and quality of a recording, and the units and times that ingestion would drop; as numbers and as pages.

Imports: the nouns, `ndt.config`, `ndt.data.read`, `splits` and `workers` of `ndt.data`, and `ndt.reports` to draw.
"""

__all__: list[str] = []
