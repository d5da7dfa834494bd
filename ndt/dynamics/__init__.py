"""Dynamics of populations from snapshots: the motion of a density, learned from samples of it at several times.

Imports: the nouns, `ndt.config` and `ndt.model`.
"""

from ndt.config.dynamics import HOAMConfig, WLMConfig
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.wlm import WLM

__all__ = ["HOAM", "HOAMConfig", "Snapshots", "WLM", "WLMConfig"]
