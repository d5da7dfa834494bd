"""Inspection of recordings: data quality, splits and left-out data, as numbers and as HTML pages.

Imports: `ndt.data.read` and `ndt.data.splits`; `ndt.reports` in the modules that draw.
"""

__all__: list[str] = []
