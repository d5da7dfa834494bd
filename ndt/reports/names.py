"""Display names of predictors, adaptation strategies and models of dynamics, and definitions of reported numbers."""

from collections.abc import Iterable

__all__ = [
    "CONTROLS", "DECODING", "DYNAMICS", "PREDICTORS", "RECORDING", "SCORES", "STRATEGIES", "in_order", "predictor_name",
]  # fmt: skip

PREDICTORS = {  # key in metrics.json -> name, in the order of tables and figures
    "ensemble": "ensemble",
    "network": "network alone",
    "scratch": "network trained from scratch",
    "ridge": "ridge regression",
    "logistic": "logistic regression",
    "wiener": "Wiener filter",
    "kalman": "Kalman filter",
    "naive_bayes": "Poisson naive Bayes",
    "tcn": "temporal convolutional network (TCN)",
    "gru": "recurrent network (GRU)",
    "ridge_time_gain": "ridge with time-varying gain",
    "oracle": "oracle (knows the simulator)",
    "time_only": "time-only (no spikes)",
    "block_permuted": "control: block-permuted targets",
    "circularly_shifted": "control: circularly shifted targets",
}
CONTROLS = ("block_permuted", "circularly_shifted")  # predictors that should score about 0
STRATEGIES = {  # of adaptation: key in the configuration -> name
    "full": "full fine-tuning",
    "heads": "fine-tuning of heads and of unit and session embeddings",
    "unlabelled": "unit and session embeddings by masked prediction, without labels",
    "none": "none (zero-shot): units are known by their activity",
}
DYNAMICS = {  # models and references: key in metrics.json -> name
    "hoam": "action matching (HOAM)",
    "wlm": "Lagrangian mechanics (WLM)",
    "action_matching": "action matching (Monte-Carlo time sampling)",
    "conditional_flow_matching": "flow matching per time",
    "conditional_diffusion": "diffusion per time",
    "flow_matching": "flow matching between snapshots (OT-CFM)",
    "gradient_flow": "gradient flow (JKO)",
    "persistence": "persistence",
    "constant_velocity": "constant velocity",
    "linear_extrapolation": "linear extrapolation",
}
SCORES = {  # scores shown with R², by kind of target: key in metrics.json, heading, decimals (None: three digits)
    "continuous": (("rmse", "RMSE ({unit})", None), ("correlation", "correlation", 3)),
    "angle": (("median_error_deg", "median error (°)", 1), ("mean_error_deg", "mean error (°)", 1)),
    "class": (
        ("accuracy", "accuracy", 3),
        ("balanced_accuracy", "balanced accuracy", 3),
        ("log_loss", "log loss (nats)", 3),
    ),
}

DECODING = {
    "R²": (
        "1 − Σ(y − ŷ)² / Σ(y − ȳ)², with both sums over all test bins of the session and all dimensions of the target "
        "(variance-weighted); ȳ is each dimension's mean over those bins. 1 is perfect; 0 is no better than that mean. "
        "For directions, y is cosine and sine; for classes, one-hot labels (R² is then a Brier skill score)."
    ),
    "Test split": (
        "Contiguous time, or whole segments or trials of an interrupted recording, that neither pretraining nor "
        "fitting nor any choice used. A guard separates it from the other splits. All predictors are scored on the "
        "same bins and read spikes of the present and past only."
    ),
    "Ensemble": (
        "The final decoder: a weighted mean of the network and other predictors. The weights sum to 1 and minimise "
        "squared error on the validation split. Claims about pretraining rest on the network alone."
    ),
    "Labels per trial": (
        "A target with one label a trial is fitted and scored at the trial's last labelled bin, so each trial counts "
        "once. Balanced accuracy is the mean over classes of the share of their trials decoded right."
    ),
    "Within noise": (
        "A difference of at most 2 standard errors. Neighbouring bins have correlated errors, so standard errors and "
        "intervals come from a bootstrap over blocks of neighbouring test bins. They describe variation within this "
        "recording, not between recordings."
    ),
    "90 % interval, 90 % set": (
        "Split conformal prediction: a half width around the predicted value or direction, or a threshold on the "
        "probability of classes, that covers 90 % of validation bins. Adaptive (online conformal) intervals widen "
        "after each miss and narrow after each hit; they need the true target one bin later."
    ),
    "Input drift": (
        "Bins whose preceding seconds of spikes are out of the distribution of training: another population rate, "
        "other units, or more units (at least 1 %) silent for longer than chance explains. About 1 % of "
        "in-distribution bins are flagged."
    ),
    "Ridge regression": (
        "Linear regression on lagged, z-scored counts; the penalty and the number of lags are chosen on the validation "
        "split. The Wiener filter has almost no penalty. A time-varying gain multiplies predictions by one gain for "
        "each bin since the segment or trial began."
    ),
    "Logistic regression": (
        "For labels per trial: regression on z-scored root counts in parts of the trial of about 100 ms, with a "
        "penalty chosen on the validation split or within the training split; classes have equal total weight. For "
        "quantities and directions per trial it is ridge regression on the same counts."
    ),
    "Kalman filter, naive Bayes, TCN, GRU": (
        "The Kalman filter assumes linear dynamics of the target and linear tuning of counts. Naive Bayes assumes "
        "independent units with Poisson counts in each cell of the target's space. The TCN is a temporal "
        "convolutional network on counts, the GRU a small recurrent network. All are fitted on the training split."
    ),
    "Trained from scratch": "The same network trained on this session alone, without pretraining.",
    "Time-only": "Predicts from the time since the segment or trial began, without spikes.",
    "Block-permuted targets, circularly shifted targets": (
        "Ridge (or logistic) regression fitted to targets whose blocks were permuted, or that were shifted by half the "
        "training time; the latter keep slow drifts and rhythms. Both should score about 0, or below."
    ),
    "Oracle": "Simulated recordings only: a decoder that knows the simulator's parameters.",
    "Bits per spike": (
        "Log likelihood of the held-out counts under the model minus that under each unit's mean rate in the training "
        "split, in bits, divided by the number of spikes."
    ),
}

RECORDING = {
    "Error, warning, note": (
        "Error: no model can be trained on the recording. Warning: a likely fault, or an unexpected property. Note: a "
        "property that needs no action."
    ),
    "Observed": (
        "Time in which at least one unit was recorded: obs_intervals without invalid_times, or, in a file without "
        "obs_intervals, from the first to the last spike. The rate of a unit is per second in which it was observed."
    ),
    "Presence": "Share of the blocks of time in which a unit was observed that contain at least one of its spikes.",
    "Intervals under 2 ms": (
        "Share of a unit's inter-spike intervals that are shorter than 2 ms. A single unit has almost none; threshold "
        "crossings of several units have up to the share that chance gives."
    ),
    "Duplicates and cross-talk": (
        "Two units that share more spikes, within half a millisecond, than chance, the session's typical pair and "
        "neighbouring lags explain: at least half of the less active unit's spikes for a duplicate, less for "
        "cross-talk. A masked unit whose duplicate stays visible inflates the scores of masked prediction."
    ),
    "Coverage": "Share of observed time in which a covariate was sampled; a sample covers one sampling interval.",
    "Missing": "Share of a covariate's samples without a finite value. They are masked, never filled.",
    "Train, validation, test": (
        "Contiguous time, or whole segments of an interrupted recording, used by all pretraining and fine-tuning on "
        "this recording. A guard as long as the model's window, here 2 s, separates the splits."
    ),
}


def in_order(keys: Iterable[str]) -> list[str]:
    """Returns predictors once each, in the order of `PREDICTORS`, unknown ones last."""
    rank = {key: i for i, key in enumerate(PREDICTORS)}

    return sorted(dict.fromkeys(keys), key=lambda key: rank.get(key, len(rank)))


def predictor_name(key: str) -> str:
    """Returns a predictor's display name; that of an unknown one is its key."""
    return PREDICTORS.get(key, key)
