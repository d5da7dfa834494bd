"""Pages, figures and console tables of runs and recordings.

Imports: the nouns and every room of `ndt` from `ndt.config` to `ndt.dynamics`; neither `ndt.data` nor a verb.
"""

__all__: list[str] = []
