"""Which covariate of a session is meant."""

import numpy as np

from ndt.errors import InputError
from ndt.session import Covariate, Session

__all__ = ["default_covariate", "find_covariate", "matching_covariates"]

PREFERRED = (
    "hand_vel",
    "cursor_vel",
    "finger_vel",
    "vel",
    "CompassDirection",
    "head_direction",
    "emg",
    "hand_pos",
    "pos",
)


def default_covariate(session: Session) -> str:
    """Returns the covariate that one would decode first: a velocity, else a heading, else whatever there is.

    Among angles the one that turns most is taken: a head turns about one axis of three.
    """
    names = list(session.covariates)
    if not names:
        raise InputError(session.source.get("path", session.session_id), "covariates", "at least one series", "none")
    for hint in PREFERRED:
        found = [n for n in names if hint.lower() in n.lower()]
        if found:
            return max(found, key=lambda n: _turning(session.covariates[n]))

    return names[0]


def _turning(covariate: Covariate) -> float:
    """Circular variance of an angle, 0 for anything else."""
    if not covariate.angular:
        return 0.0

    return float(1 - np.abs(np.nanmean(np.exp(1j * np.asarray(covariate.values, np.float64)))))


def find_covariate(session: Session, name: str | None) -> Covariate:
    """Returns a covariate by name, path or unambiguous end of its path; by default the one decoded first."""
    if name is None:
        return session.covariates[default_covariate(session)]
    found = matching_covariates(session, name)
    if len(found) != 1:
        listed = ", ".join(session.covariates) or "none"
        raise InputError(session.session_id, "covariate", f"one of: {listed}", repr(name))

    return found[0]


def matching_covariates(session: Session, name: str) -> list[Covariate]:
    """Returns the covariate of this name; where there is none, all whose path ends so."""
    if name in session.covariates:
        return [session.covariates[name]]

    return [c for c in session.covariates.values() if f"/{c.path}".endswith(f"/{name}")]
