"""Which row of the model's tables belongs to which unit, session, subject and task."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt.session import Session

__all__ = ["Rows", "Vocabulary"]


class Rows(NamedTuple):
    """Where a session's units and contexts are in a model's tables.

    Arguments:
        order: The session's units in the order of their identities, so that a file that lists the same units in another
            order gives the same patches, shape (N,).
        unit: Table row of each unit in that order, shape (N,).
        context: Table row of each context token, shape (K,).
    """

    order: NDArray[np.int64]
    unit: NDArray[np.int64]
    context: NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Names of the rows of the unit table and of the context table.

    Arguments:
        units: Unit identities, one a row.
        contexts: Context names, one a row: ``session:…``, ``subject:…``, ``task:…``.
    """

    units: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()

    @staticmethod
    def context_names(session: Session) -> tuple[str, ...]:
        """Returns the names of a session's context tokens: session, subject, task."""
        return (f"session:{session.session_id}", f"subject:{session.subject}", f"task:{session.task}")

    def extend(self, sessions: Iterable[Session]) -> "Vocabulary":
        """Returns a vocabulary that also knows these sessions; old rows stay where they are."""
        units, contexts = dict.fromkeys(self.units), dict.fromkeys(self.contexts)
        for session in sessions:
            units |= dict.fromkeys(str(u) for u in session.units.id)
            contexts |= dict.fromkeys(self.context_names(session))

        return Vocabulary(tuple(units), tuple(contexts))

    def rows(self, session: Session) -> Rows:
        """Returns the table rows of a session.

        Raises:
            KeyError: if the vocabulary lacks a unit or a context of the session; `extend` it first.
        """
        unit_row = {u: i for i, u in enumerate(self.units)}
        context_row = {c: i for i, c in enumerate(self.contexts)}
        order = np.argsort(session.units.id, kind="stable")
        units = np.array([unit_row[str(u)] for u in session.units.id[order]], np.int64)

        return Rows(order, units, np.array([context_row[c] for c in self.context_names(session)], np.int64))
