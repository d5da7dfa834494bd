"""Animation of particles as an SVG without a script; in print it shows the first frame."""

import numpy as np
from numpy.typing import NDArray

from ndt.reports.plots import GRID, INK, QUIET

__all__ = ["animate"]

WIDTH, HEIGHT, MARGIN, SECONDS = 640, 380, 46, 8
MOST, FRAMES = 150, 40  # particles, frames


def animate(
    x: NDArray[np.float64], times: NDArray[np.float64], seen: list[tuple[float, NDArray[np.float64]]],
    names: tuple[str, str], colour: str,
) -> str:  # fmt: skip
    """Returns an SVG in which particles move and snapshots are highlighted at their times.

    Arguments:
        x: Positions of particles, shape (T, N, d); the first two dimensions are shown.
        times: Ascending times, shape (T,).
        seen: Time and samples of each snapshot.
        names: Names of the two dimensions.
        colour: Colour of the particles.
    """
    frames = np.unique(np.linspace(0, len(times) - 1, FRAMES).round().astype(int))
    paths, moments = x[frames][:, :MOST, :2], (times[frames] - times[0]) / (times[-1] - times[0])
    both = np.concatenate([paths.reshape(-1, 2), *(y[:, :2] for _, y in seen)])
    low, high = both.min(0), both.max(0)
    room = np.array([WIDTH - 2 * MARGIN, 2 * MARGIN - HEIGHT])
    corner = np.array([MARGIN, HEIGHT - MARGIN])

    def placed(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(corner + (y - low) / np.where(high > low, high - low, 1.0) * room)

    keys, parts = ";".join(f"{m:.4g}" for m in moments), [_frame(low, high, names)]
    for time, y in seen:
        parts.append(_snapshot((time - times[0]) / (times[-1] - times[0]), placed(y[:MOST, :2]), time))
    for path in placed(paths).transpose(1, 0, 2):
        moves = "".join(
            f'<animate attributeName="{name}" dur="{SECONDS}s" repeatCount="indefinite" keyTimes="{keys}" '
            f'values="{";".join(f"{v:.1f}" for v in path[:, j])}"/>'
            for j, name in enumerate(("cx", "cy"))
        )
        parts.append(f'<circle cx="{path[0, 0]:.1f}" cy="{path[0, 1]:.1f}" r="2.2" fill="{colour}">{moves}</circle>')

    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _frame(low: NDArray[np.float64], high: NDArray[np.float64], names: tuple[str, str]) -> str:
    left, right, top, bottom = MARGIN, WIDTH - MARGIN, MARGIN, HEIGHT - MARGIN
    text = f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="{GRID}"/>'
    label = f'<text font-size="12" fill="{INK}" '
    for x, value in ((left, low[0]), (right, high[0])):
        text += f'{label}x="{x}" y="{bottom + 16}" text-anchor="middle">{value:.3g}</text>'
    for y, value in ((bottom, low[1]), (top + 8, high[1])):
        text += f'{label}x="{left - 6}" y="{y}" text-anchor="end">{value:.3g}</text>'
    text += f'{label}x="{(left + right) / 2}" y="{bottom + 30}" text-anchor="middle">{names[0]}</text>'

    return text + f'{label}x="{left}" y="{top - 10}">{names[1]}</text>'


def _snapshot(at: float, places: NDArray[np.float64], time: float) -> str:
    """Returns a snapshot's samples and its time, highlighted around that time."""
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places)
    near = [min(max(at + step, 0.0), 1.0) for step in (-0.04, 0.0, 0.04)]
    keys, values = [0.0, *near, 1.0], [0.2, 0.2, 0.8, 0.2, 0.2]
    values[:3] = [0.8] * 3 if at <= 0.0 else values[:3]
    values[2:] = [0.8] * 3 if at >= 1.0 else values[2:]
    glow = (
        f'<animate attributeName="opacity" dur="{SECONDS}s" repeatCount="indefinite" '
        f'keyTimes="{";".join(f"{k:.4g}" for k in keys)}" values="{";".join(map(str, values))}"/>'
    )
    x, y = places.mean(0)
    name = f'<text x="{x:.1f}" y="{y - 14:.1f}" font-size="11" text-anchor="middle">t = {time:.3g}</text>'

    return f'<g fill="{QUIET}" opacity="{values[0]}">{dots}{name}{glow}</g>'
