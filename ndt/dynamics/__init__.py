"""Dynamics of populations from snapshots: how a density moves, learned from samples of it at several times."""

from ndt.config_dynamics import HOAMConfig
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.snapshots import Snapshots

__all__ = ["HOAM", "HOAMConfig", "Snapshots"]
