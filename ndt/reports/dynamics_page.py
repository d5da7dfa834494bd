"""Writes the HTML report of a dynamics run: scores, densities, moments and energies over time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.dynamics.hoam import HOAM
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.named import System
from ndt.dynamics.wlm import WLM
from ndt.reports import plots
from ndt.reports.animation import animate
from ndt.reports.names import DYNAMICS
from ndt.reports.page import Drawing, Graded, Section, Table, number, render, versions, write_text
from ndt.reports.plots import BLUE, CRIMSON, GREEN, GRID, INK, ORANGE, PURPLE, QUIET, page_figure

__all__ = ["write_report"]

COLOURS = {
    "wlm": CRIMSON, "hoam": BLUE, "action_matching": PURPLE, "conditional_flow_matching": ORANGE,
    "conditional_diffusion": GREEN, "flow_matching": ORANGE, "gradient_flow": GREEN, "persistence": QUIET,
    "constant_velocity": QUIET, "linear_extrapolation": QUIET,
}  # fmt: skip
DASHES = {"constant_velocity": ":", "linear_extrapolation": "-."}
SCORES = {
    "w2": "W2", "sliced_w2": "sliced W2", "mean_error": "means", "cov_error": "covariances", "energy_error": "energy",
}  # fmt: skip
WORDS = {
    "W2": "Wasserstein distance of order 2: root of the least mean squared distance of a transport from one set of "
    "samples to the other. It is above 0 even for two samples of one population.",
    "sliced W2": "Root of the mean squared W2 along 64 random directions; periodic dimensions are mapped to circles.",
    "means, covariances": "Errors relative to the true standard deviation and covariance.",
    "energy": "Electric energy: norm over time of the error, divided by that of the true energy.",
    "loss": "Action-matching loss. Its minimum is minus half the mean squared velocity; with fresh quadrature nodes it "
    "cannot be lower.",
}
MOMENTS: dict[str, Any] = {"mean": np.mean, "standard deviation": np.std}
Paths = dict[str, list[NDArray[np.float64]]]


def write_report(
    out: Path, found: dict[str, Any], seen: Snapshots, paths: Paths, energies: dict[str, Any],
    system: System | None, model: HOAM | WLM,
) -> Path:  # fmt: skip
    """Writes ``report.html`` into a run directory and returns its path.

    Arguments:
        out: Run directory.
        found: Content of metrics.json.
        seen: Scored snapshots.
        paths: Simulated samples of each model, by trajectory, (T, N, d).
        energies: Electric energies, true and simulated, if the system has one.
        system: The simulated system, if any.
        model: The fitted model.
    """
    names = system.labels if system is not None else tuple(f"x{k + 1}" for k in range(seen.num_dims))
    sections = [
        _scores(found, seen),
        _densities(seen, paths[model.method], names),
        _moments(seen, paths, names),
        *([_energy(seen, energies)] if energies else []),
        *([_mechanics(model, seen, names)] if isinstance(model, WLM) else []),
        _fit(found["fit"], model.losses),
        Section(title="Settings", anchor="settings", sources={"config.yaml": (out / "config.yaml").read_text()},
                tables=[versions(("ndt", "torch", "numpy", "scipy"))]),
        Section(title="Definitions", anchor="definitions", definitions=WORDS),
    ]  # fmt: skip
    summary = found["summary"][model.method]
    tiles = [(number(summary[k]), SCORES[k]) for k in ("sliced_w2", "w2")]
    tiles.append((f"{found['fit']['seconds'][model.method]:.0f} s", "to fit"))
    page = render(
        f"Dynamics of {Path(found['source']).name}",
        f"trajectories scored: {seen.num_trajectories}; dimensions: {seen.num_dims}",
        sections, tiles,
    )  # fmt: skip
    path = out / "report.html"
    write_text(path, page)

    return path


def _scores(found: dict[str, Any], seen: Snapshots) -> Section:
    keys = [k for k in SCORES if k in found["summary"][found["method"]]]
    rows = [[DYNAMICS[name], *(number(each.get(k)) for k in keys)] for name, each in found["summary"].items()]
    what = "held-out parameters and times" if seen.held_out.any() else "all snapshots, which were fitted"
    start = "last fitted" if found["forecast_from"] == "last" else "first"
    text = f"Each population was simulated from its {start} snapshot. Means over {what}; lower is better."
    table = Table(head=["model", *(SCORES[k] for k in keys)], rows=rows, numeric=set(range(1, len(keys) + 1)))

    return Section(title="Scores", anchor="scores", text=[text], tables=[table])


def _title(seen: Snapshots, m: int) -> str:
    mu = ", ".join(f"{v:g}" for v in seen.mu[m])
    return f"trajectory {m + 1}" + (f" (mu = {mu})" if mu else "")


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 0.1 % and 99.9 % quantiles."""
    low, high = np.quantile(values, [0.001, 0.999])

    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _densities(seen: Snapshots, made: list[NDArray[np.float64]], names: tuple[str, ...]) -> Section:
    section = Section(title="Densities", anchor="densities")
    one, cells = seen.num_dims == 1, 40
    for m in range(min(seen.num_trajectories, 2)):
        true = seen.of(m)
        at = np.unique(np.linspace(0, len(true) - 1, 4).round().astype(int))
        both = np.concatenate([s.x for s in true] + list(made[m]))
        limits = [_range(both[:, j]) for j in range(min(seen.num_dims, 2))]
        with page_figure(3.6, 2, len(at), sharex=True, sharey=not one) as sheet:
            for axes, k in zip(sheet.axes.T, at, strict=True):
                frames = (true[k].x, made[m][k])
                counts = [np.histogramdd(x[:, : len(limits)], cells, limits)[0].T / len(x) for x in frames]
                top = max(1e-12, *(float(np.quantile(c, 0.995)) for c in counts))
                for ax, count, colour, cmap in zip(axes, counts, (INK, BLUE), ("Greys", "Blues"), strict=True):
                    if one:
                        ax.stairs(count, np.linspace(*limits[0], cells + 1), color=colour, fill=True, alpha=0.6)
                    else:
                        box = (*limits[0], *limits[1])
                        ax.imshow(count, origin="lower", extent=box, aspect="auto", vmin=0, vmax=top, cmap=cmap)
                axes[0].set_title(f"t = {true[k].time:.3g}")
                axes[1].set_xlabel(names[0])
            for ax, label in zip(sheet.axes[:, 0], ("true", "model"), strict=True):
                ax.set_ylabel(f"{label}\n{'share of samples' if one else names[1]}")
        shown = names[0] if one else f"{names[0]} and {names[1]}"
        caption = f"Density of {shown}, true (top) and simulated (bottom); {_title(seen, m)}. One scale per column."
        section.drawings.append(Drawing(sheet.svg, caption))

    return section


def _moments(seen: Snapshots, paths: Paths, names: tuple[str, ...]) -> Section:
    section = Section(title="Moments over time", anchor="moments")
    for m in range(min(seen.num_trajectories, 2)):
        true, dims = seen.of(m), min(seen.num_dims, 3)
        times = np.array([s.time for s in true])
        with page_figure(3.8, 2, dims, sharex=True) as sheet:
            for row, (label, moment) in enumerate(MOMENTS.items()):
                sheet.axes[row, 0].set_ylabel(label)
                for j, ax in enumerate(sheet.axes[row]):
                    known = np.array([moment(s.x[:, j], axis=0) for s in true])
                    ax.plot(times, known, "o", color=INK, markersize=3, label="true")
                    for name, each in paths.items():
                        if name != "persistence":
                            ax.plot(times, moment(each[m][..., j], axis=1), DASHES.get(name, "-"), color=COLOURS[name],
                                    label=DYNAMICS[name])  # fmt: skip
                    ax.grid(axis="y", color=GRID, linewidth=0.7)
                    bottom, top = ax.get_ylim()
                    if (spread := np.ptp(known)) > 0:
                        ax.set_ylim(max(known.min() - spread, bottom), min(known.max() + spread, top))
            for j in range(dims):
                sheet.axes[0, j].set_title(names[j])
                sheet.axes[1, j].set_xlabel("time")
            handles, labels = sheet.axes[0, 0].get_legend_handles_labels()
            sheet.figure.legend(handles, labels, fontsize=7.5, loc="outside upper center", ncols=4)
        caption = (
            f"Mean and standard deviation, {_title(seen, m)}. Those of periodic dimensions jump at the seam. Axes are "
            "limited to three times the range of the truth."
        )
        section.drawings.append(Drawing(sheet.svg, caption))

    return section


def _energy(seen: Snapshots, energies: dict[str, Any]) -> Section:
    num = min(seen.num_trajectories, 2)
    with page_figure(2.8, 1, num, sharey=True) as sheet:
        for m in range(num):
            ax = sheet.axes[0, m]
            times = np.array([s.time for s in seen.of(m)])
            ax.plot(times, energies["true"][m], "o", color=INK, markersize=3, label="true")
            for name, each in energies["simulated"].items():
                ax.plot(times, each[m], color=COLOURS[name], label=DYNAMICS[name])
            ax.set(xlabel="time", yscale="log", title=_title(seen, m))
            ax.grid(axis="y", color=GRID, linewidth=0.7)
        sheet.axes[0, 0].set_ylabel("electric energy")
        sheet.axes[0, 0].legend(fontsize=7.5)
    caption = "Electric energy, computed on the same mesh. Independent samples have shot noise."

    return Section(title="Energy over time", anchor="energy", drawings=[Drawing(sheet.svg, caption)])


def _mechanics(model: WLM, seen: Snapshots, names: tuple[str, ...]) -> Section:
    """Shows the friction during fitting and the energy of simulated particles."""
    num = min(seen.num_trajectories, 3)
    with page_figure(2.8, 1, 2) as sheet:
        left, right = sheet.axes[0]
        left.plot(np.arange(1, len(model.frictions) + 1), model.frictions, color=BLUE)
        left.set(xlabel="optimisation step", ylabel="friction (1 / time)", ylim=(0, None))
        for m in range(num):
            times, colour = [s.time for s in seen.of(m)], (BLUE, ORANGE, GREEN)[m]
            x, v = model.motion(seen.of(m)[0], times, seen.mu[m])
            energy = [model.energy(a, b, seen.mu[m], t) for a, b, t in zip(x, v, times, strict=True)]
            kinetic, colour = (v**2).sum(2).mean(1) / 2, (BLUE, ORANGE, GREEN)[m]
            right.plot(times, energy, color=colour, label=f"{_title(seen, m)}, total")
            right.plot(times, kinetic, "--", color=colour, label="kinetic" if m == 0 else None)
        right.set(xlabel="time", ylabel="energy of a particle")
        right.legend(fontsize=7.5)
        for ax in (left, right):
            ax.grid(axis="y", color=GRID, linewidth=0.7)
    caption = (
        "Friction during fitting, and mean energy of simulated particles, which is conserved without friction. The "
        "level of the potential is arbitrary."
    )

    drawings = [Drawing(sheet.svg, caption)]
    if seen.num_dims > 1:
        snapshots = seen.of(0)
        frames = np.linspace(snapshots[0].time, snapshots[-1].time, 81)
        made = model.advance(snapshots[0], frames, seen.mu[0])
        moving = animate(made, frames, [(s.time, s.x) for s in snapshots], (names[0], names[1]), COLOURS["wlm"])
        shown = f"{_title(seen, 0)}: simulated particles, and snapshots (grey) at their times."
        drawings.insert(0, Drawing(moving, shown))

    return Section(title="Mechanics", anchor="mechanics", drawings=drawings)


def _fit(fit: dict[str, Any], losses: NDArray[np.float64]) -> Section:
    width = max(len(losses) // 100, 1)
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    steps = (np.arange(len(smooth)) + width).astype(np.float64)
    kept = np.quantile(smooth, 0.97)  # the first steps would dominate the axis
    shown = smooth <= max(kept, smooth[-1])
    line = {"fresh nodes": fit["fresh"]} if "fresh" in fit else {}
    what = "Action-matching loss" if "fresh" in fit else "Distance of rollouts to snapshots, in squared data widths"
    series = {"training": (steps[shown], smooth[shown])}
    curve = plots.curves({"loss": series}, line, f"{what}, running means of {width} steps.")
    if "friction" in fit:
        text = (
            f"Friction {fit['friction']:.4g} per unit of time, {fit['scale']} scale; initial velocities: "
            f"{fit['velocity'].replace('_', ' ')}. Last losses {fit['loss']:.3g}."
        )
        return Section(title="Fit", anchor="fit", text=[text], drawings=curve)
    text = (
        f"Loss {fit['loss']:.4g} with the fitted rule, {fit['fresh']:.4g} with fresh and finer nodes "
        f"(± {fit['error']:.2g}); the optimal loss, minus half the mean squared velocity, is {fit['kinetic']:.4g}."
    )

    return Section(title="Fit", anchor="fit", text=[text], findings=_overfitting(fit), drawings=curve)


def _overfitting(fit: dict[str, Any]) -> list[Graded]:
    """Returns findings on over-fitting of quadrature nodes and of samples."""
    nodes = (
        "The loss is below that of fresh nodes: the potential over-fits the quadrature. "
        "Draw new nodes each step (rule=stratified) or fix the level (gauge=mean)."
        if fit["overfitted"] else "The loss agrees with that of fresh nodes."
    )  # fmt: skip
    found = [Graded(grade="warning" if fit["overfitted"] else "ok", where="quadrature", message=nodes)]
    if fit["validation"] is not None:
        samples = f"The loss of validation samples is {fit['validation']:.4g}, " + (
            "above that of fitted samples: the model over-fits these. Use more samples, or fewer steps."
            if fit["overfitted_samples"] else "no more than that of fitted samples, to within its error."
        )  # fmt: skip
        found.append(Graded(grade="warning" if fit["overfitted_samples"] else "ok", where="samples", message=samples))

    return found
