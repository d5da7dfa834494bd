"""Report section of the demo's rotating population."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.parsing import read_json, read_npz
from ndt.reports.names import DYNAMICS
from ndt.reports.page import Section, Table, fixed, number
from ndt.reports.plots import BLUE, CRIMSON, GRID, INK, Drawing, page_figure
from ndt.reports.run_metrics import RotationResult

__all__ = ["section"]

NAMES = {"latents": "latents of the recording"} | {name: DYNAMICS[name] for name in ("wlm", "hoam")}
COLOURS = {"latents": INK, "wlm": CRIMSON, "hoam": BLUE}
SHOWN = 40  # trials


def section(run: Path) -> Iterator[Section]:
    """Yields the section if the run includes the example."""
    path = run / "rotation" / "rotation.json"
    if not path.exists():
        return
    found = read_json(path, RotationResult, "the rotation of a demo")
    if missing := [name for name in NAMES if name not in found["found"]]:
        raise InputError(path, f"found.{missing[0]}", "an entry of that name", "none")
    times, paths = _read_paths(path.with_name("paths.npz"))
    true = float(found["true_hz"])
    rows = [
        [NAMES[name], number(each["frequency"]), f"{each['frequency'] / true - 1:+.1%}", fixed(each["r2"])]
        for name, each in ((name, found["found"][name]) for name in NAMES)
    ]
    text = (
        f"A simulated population rotates at {true:g} Hz within trials. A model was pretrained on its spikes. HOAM and "
        f"WLM were fitted to three principal components of its latents, aligned to the starts of {found['num_trials']} "
        "trials, and simulated from the first snapshot. The frequency is that of a linear system fitted to the mean "
        "over trials."
    )
    table = Table(
        head=["", "frequency (Hz)", "error", "R² of the linear system"],
        rows=[["truth", number(true), "", ""], *rows], numeric={1, 2, 3},
    )  # fmt: skip
    result = Section(title="Rotational dynamics", anchor="rotation", text=[text], tables=[table])
    result.drawings.append(_drawn(times, paths))

    yield result


def _read_paths(path: Path) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Returns times (T,) and the paths of each of `NAMES`, (T, N, d)."""
    arrays = read_npz(path, ("times", *NAMES))
    times = arrays["times"]
    for name, values in arrays.items():
        fits = values.shape == (len(times),) if name == "times" else values.ndim == 3 and len(values) == len(times) > 0
        if values.dtype.kind != "f" or not fits or min(values.shape) < 1 or values.shape[-1] < 2:
            raise InputError(path, name, "times (T,) and paths (T, N, d), d > 1", f"{values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            raise InputError(path, name, "finite numbers", "others")

    return times, {name: arrays[name].astype(np.float64) for name in NAMES}


def _drawn(times: NDArray[np.float64], paths: dict[str, NDArray[np.float64]]) -> Drawing:
    """Draws trials in the plane of the first two components, and the mean over trials against time."""
    low, high = np.quantile(np.concatenate([x[..., :2].reshape(-1, 2) for x in paths.values()]), [0.003, 0.997], axis=0)
    with page_figure(3.0, 1, 4) as sheet:
        for ax, (name, x) in zip(sheet.axes[0], paths.items(), strict=False):
            colour = COLOURS[name]
            for trial in x[:, :SHOWN, :2].transpose(1, 0, 2):
                ax.plot(*trial.T, color=colour, linewidth=0.4, alpha=0.3)
            ax.plot(*x.mean(1)[:, :2].T, color=colour, linewidth=1.8)
            ax.plot(*x.mean(1)[0, :2], "o", color=colour, markersize=4)
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="component 1")
            ax.set_title(NAMES[name], fontsize=8)
        sheet.axes[0, 0].set_ylabel("component 2")
        last = sheet.axes[0, 3]
        for name, x in paths.items():
            last.plot(times, x.mean(1)[:, 0], color=COLOURS[name], linewidth=1.4)
        last.grid(color=GRID, linewidth=0.5)
        last.set(xlabel="seconds from the start")
        last.set_title("mean of component 1", fontsize=8)

    return Drawing(
        sheet.svg,
        "Single trials (thin) and their mean (thick; the dot marks the start). Right: first component of the mean over "
        "time, in the same colours. Axes span the 0.3 % to 99.7 % quantiles, in standard deviations.",
    )
