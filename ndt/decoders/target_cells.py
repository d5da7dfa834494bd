"""Cells of a target's range: around a circle, over a grid, or one a class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from ndt.segments import Array

__all__ = ["Cells", "circle", "classes", "grid", "spread"]


@dataclass(frozen=True)
class Cells:
    r"""M cells along one axis or more, and the heat kernel that smooths quantities over neighbouring cells.

    .. math:: K(\sigma) = \exp(-\tfrac{\sigma^2}{2} L), \quad L = \mathrm{diag}(A 1) - A

    with A the adjacency matrix (a cycle, a path, or a complete graph). So :math:`\sigma` is the standard deviation of
    the smoothing in cells, which keeps the sum at borders; variances :math:`\sigma^2` of repeated smoothing add.

    Arguments:
        values: Target at each cell, (M, C): the cosine and sine of a direction, a centre, or a one-hot class.
        neighbours: Adjacency of cells, one (m, m) matrix of zeros and ones an axis.
        edges: For a grid, the edges of its cells along each axis, ascending, (m + 1,).
    """

    values: Array
    neighbours: tuple[Array, ...]
    edges: tuple[Array, ...] = ()

    def kernel(self, width: float) -> list[Array]:
        """Returns K for a width in cells, one matrix an axis; its rows and columns sum to 1."""
        return [np.maximum(expm(-(width**2) / 2 * (np.diag(a.sum(1)) - a)), 0.0) for a in self.neighbours]  # rounding

    def of(self, y: Array) -> NDArray[np.int64]:
        """Returns the cell of each row of (T, C); the nearest one beyond the border."""
        if self.edges:
            along = [np.searchsorted(e[1:-1], y[:, c], side="right") for c, e in enumerate(self.edges)]
            return np.ravel_multi_index(tuple(along), tuple(len(e) - 1 for e in self.edges)).astype(np.int64)

        return np.argmax(y @ self.values.T, 1).astype(np.int64)  # the nearest of unit vectors


def circle(num_cells: int) -> Cells:
    """Returns cells of equal width around a circle; their values are cosine and sine."""
    angle = 2 * np.pi * np.arange(num_cells) / num_cells
    step = np.roll(np.eye(num_cells), 1, 1)

    return Cells(np.stack([np.cos(angle), np.sin(angle)], 1), (np.maximum(step, step.T),))


def grid(edges: Sequence[Array]) -> Cells:
    """Returns the cells between edges, (m + 1,), along each of one axis or two; their values are centres."""
    centres = np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in edges), indexing="ij")
    paths = [np.eye(len(e) - 1, k=1) + np.eye(len(e) - 1, k=-1) for e in edges]

    return Cells(np.stack([c.ravel() for c in centres], 1), tuple(paths), tuple(edges))


def classes(num_classes: int) -> Cells:
    """Returns one cell a class; all are neighbours of each other."""
    return Cells(np.eye(num_classes), (1 - np.eye(num_classes),))


def spread(x: Array, kernel: Sequence[Array]) -> Array:
    """Returns (…, M) smoothed over cells by a kernel, (…, m, m) an axis."""
    shape = x.shape
    if len(kernel) == 1:
        return x @ kernel[0]
    first, second = kernel
    y = x.reshape(*shape[:-1], first.shape[-1], second.shape[-1])

    return (np.swapaxes(first, -1, -2) @ y @ second).reshape(shape)
