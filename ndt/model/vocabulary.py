"""Rows of the model's tables: units, their recording sites, and contexts (session, subject, task)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt.model.tokens import Window
from ndt.session import Session

__all__ = ["CONTEXT_KINDS", "Rows", "Vocabulary"]

CONTEXT_KINDS = ("session", "subject", "task")
DEPTH = ("depth", "rel_z", "z")  # columns of the units table that hold the depth in micrometres, by priority


class Rows(NamedTuple):
    """Table rows of a session's units and contexts.

    Arguments:
        order: Permutation that sorts the session's units by identity, shape (N,): patches do not depend on the order
            of units in the file.
        unit: Table row of each unit in that order, shape (N,).
        context: Table rows of session, subject and task, shape (3,).
        group: Group number of each unit in that order, shape (N,): units with duplicated spikes (column
            `duplicate_group`) share one; every other unit has its own.
    """

    order: NDArray[np.int64]
    unit: NDArray[np.int64]
    context: NDArray[np.int64]
    group: NDArray[np.int64]
    tables: tuple[str, ...] = ()

    def window(
        self,
        counts: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        *,
        hidden: NDArray[np.bool_] | None = None,
        activity: NDArray[np.float32] | None = None,
        trial: NDArray[np.int64] | None = None,
        index: tuple[int, int] = (0, 0),
        session: str = "",
    ) -> Window:
        """Returns a `Window`, sorted by identity; arguments are its fields, in the session's order of units."""
        return Window(
            counts=counts.take(self.order, 1),  # faster than indexing
            valid=valid.take(self.order, 1),
            hidden=None if hidden is None else hidden.take(self.order, 1),
            activity=None if activity is None else activity[self.order],
            trial=trial,
            unit=self.unit,
            context=self.context,
            index=index,
            session=session,
        )


@dataclass(frozen=True)
class Vocabulary:
    """Names of the rows of the unit, context and site tables.

    Arguments:
        units: Unit identities.
        contexts: Contexts: ``session:…``, ``subject:…``, ``task:…``.
        sites: Regions and probes: ``region:…``, ``probe:…``.
        unit_sites: Rows of the region and of the probe of each unit.
        unit_depths: Depth of each unit in millimetres; 0 if unknown.
    """

    units: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    unit_sites: tuple[tuple[int, int], ...] = ()
    unit_depths: tuple[float, ...] = ()

    @staticmethod
    def context_names(session: Session) -> tuple[str, ...]:
        """Returns the names of a session's contexts: session, subject, task."""
        return tuple(
            f"{k}:{v}" for k, v in zip(CONTEXT_KINDS, (session.session_id, session.subject, session.task), strict=True)
        )

    def extend(self, sessions: Iterable[Session]) -> "Vocabulary":
        """Returns a vocabulary with the rows of these sessions appended, new units of a session sorted by identity."""
        units = {u: i for i, u in enumerate(self.units)}
        contexts, sites = dict.fromkeys(self.contexts), {site: i for i, site in enumerate(self.sites)}
        unit_sites, unit_depths = list(self.unit_sites), list(self.unit_depths)
        for session in sessions:
            contexts |= dict.fromkeys(self.context_names(session))
            regions, probes, depths = _column(session, "location"), _column(session, "group"), _depths(session)
            for n in np.argsort(session.units.id, kind="stable"):
                if (u := str(session.units.id[n])) not in units:
                    units[u] = len(units)
                    names = (f"region:{regions[n]}", f"probe:{probes[n]}")
                    first, second = (sites.setdefault(name, len(sites)) for name in names)
                    unit_sites.append((first, second))
                    unit_depths.append(float(depths[n]))

        return Vocabulary(tuple(units), tuple(contexts), tuple(sites), tuple(unit_sites), tuple(unit_depths))

    def rows(self, session: Session, tables: tuple[str, ...] = ()) -> Rows:
        """Returns the table rows of a session.

        Arguments:
            session: The session.
            tables: `Rows.tables`.

        Raises:
            KeyError: if the vocabulary lacks a unit or a context of the session; `extend` it first.
        """
        unit_row = {u: i for i, u in enumerate(self.units)}
        context_row = {c: i for i, c in enumerate(self.contexts)}
        order = np.argsort(session.units.id, kind="stable")
        units = np.array([unit_row[str(u)] for u in session.units.id[order]], np.int64)
        context = np.array([context_row[c] for c in self.context_names(session)], np.int64)

        return Rows(order, units, context, _groups(session)[order], tables)


def _column(session: Session, name: str) -> NDArray[np.str_]:
    column = session.units.columns.get(name)

    return np.full(len(session.units), "", np.str_) if column is None else np.asarray(column).astype(np.str_)


def _groups(session: Session) -> NDArray[np.int64]:
    """Group number of each unit; units with -1 in the column get numbers of their own."""
    alone = np.arange(len(session.units))
    column = session.units.columns.get("duplicate_group")
    if column is None:
        return alone
    group = np.asarray(column).astype(np.int64)

    return np.where(group >= 0, group, group.max(initial=0) + 1 + alone)


def _depths(session: Session) -> NDArray[np.float64]:
    """Depth of each unit in millimetres, 0 where unknown."""
    for name in DEPTH:
        column = session.units.columns.get(name)
        if column is not None and np.issubdtype(column.dtype, np.number) and column.ndim == 1:
            return np.nan_to_num(np.asarray(column, np.float64)) / 1e3

    return np.zeros(len(session.units))
