"""What the Neural Latents Benchmark '21 asks of each of its data sets: which time, which behaviour, which conditions.

Times, lags, kernels and columns are those of the benchmark's own preparation (nlb_tools, make_tensors.py, as of 2022);
the paper's baselines were scored with shorter lags and kernels of an earlier version. Numbers of units are those of the
published files. What was not verified: whether EvalAI's server runs that version.
"""

from dataclasses import dataclass

from ndt.errors import InputError

__all__ = ["TASKS", "NlbTask", "find_task", "group_name"]

BIN_MS = {5: "", 20: "_20"}  # widths that the benchmark scores, and how a group's name ends


@dataclass(frozen=True, kw_only=True)
class NlbTask:
    """A way to cut a recording's trials, and what is scored of them.

    Arguments:
        name: Name of the data set.
        align: Column of the table `trials` with the time that trials are aligned to; ``start`` for their start.
        window: From when to when a trial is seen, in seconds from `align`; None for the trial as the table has it.
        forward: How long after that rates are predicted, in seconds.
        covariate: Velocity that is decoded; empty for none.
        lag: How much later than spikes velocity is read, in seconds.
        decoder: Column of `trials` whose values 0 and 1 have a decoder each; empty for one decoder.
        conditions: Columns of `trials` that make a condition, of which there is a PSTH; empty for none.
        kernel: Standard deviation of the Gaussian that spikes are smoothed with for PSTHs, in seconds.
        since: Column of `trials` with a time before which a trial is not scored; empty for none.
        per_trial: Columns of `trials` that are correlated with neural speed, see `ndt.nlb.tp_corr`; empty for none.
        outlier: Column of `trials` that is 1 where a trial has no behaviour and is in no PSTH; empty for none.
        num_units: Held-in and held-out units of the published files; 0 where any number will do.
    """

    name: str
    align: str = "start"
    window: tuple[float, float] | None = None
    forward: float = 0.2
    covariate: str = ""
    lag: float = 0.0
    decoder: str = ""
    conditions: tuple[str, ...] = ()
    kernel: float = 0.07
    since: str = ""
    per_trial: tuple[str, ...] = ()
    outlier: str = ""
    num_units: tuple[int, int] = (0, 0)


def _maze(name: str, heldin: int, heldout: int, lag: float, kernel: float) -> NlbTask:
    return NlbTask(
        name=name,
        align="move_onset_time",
        window=(-0.25, 0.45),
        covariate="hand_vel",
        lag=lag,
        conditions=("trial_type", "trial_version"),
        kernel=kernel,
        num_units=(heldin, heldout),
    )


TASKS = {
    task.name: task
    for task in (
        _maze("mc_maze", 137, 45, 0.1, 0.07),
        NlbTask(name="mc_rtt", window=(0.0, 0.6), covariate="finger_vel", lag=0.14, num_units=(98, 32)),
        NlbTask(
            name="area2_bump",
            align="move_onset_time",
            window=(-0.1, 0.5),
            covariate="hand_vel",
            lag=-0.02,
            decoder="ctr_hold_bump",
            conditions=("cond_dir", "ctr_hold_bump"),
            kernel=0.04,
            num_units=(49, 16),
        ),
        NlbTask(
            name="dmfc_rsg",
            align="go_time",
            window=(-1.5, 0.0),
            conditions=("is_eye", "theta", "is_short", "ts"),
            kernel=0.07,
            since="set_time",
            per_trial=("is_eye", "theta", "is_short", "ts", "tp"),
            outlier="is_outlier",
            num_units=(40, 14),
        ),
        _maze("mc_maze_large", 122, 40, 0.12, 0.05),
        _maze("mc_maze_medium", 114, 38, 0.12, 0.05),
        _maze("mc_maze_small", 107, 35, 0.12, 0.05),
    )
}


def find_task(name: str) -> NlbTask:
    """Returns what a data set asks.

    Raises:
        InputError: if there is no such data set.
    """
    if name not in TASKS:
        raise InputError("nlb", "dataset", f"one of {', '.join(TASKS)}", repr(name))

    return TASKS[name]


def group_name(dataset: str, bin_size: float) -> str:
    """Returns the name of a data set's group in a submission.

    Raises:
        InputError: if the benchmark does not score bins of this width.
    """
    width = round(bin_size * 1e3, 6)
    if width not in BIN_MS:
        raise InputError("nlb", "bin_size", "5 or 20 ms, which the benchmark scores", f"{width:g} ms")

    return dataset + BIN_MS[int(width)]
