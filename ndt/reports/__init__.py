"""Pages, figures and console tables of runs and recordings.

Imports: every room of `ndt` above it, and no verb; it draws what it is given.
"""

__all__: list[str] = []
