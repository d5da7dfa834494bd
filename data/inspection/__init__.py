"""What a recording holds, what is kept of it, and what should be doubted; as numbers, and as pages.

Imports: `ndt.data.read`, and `ndt.reports` in the modules that draw.
"""

__all__: list[str] = []
