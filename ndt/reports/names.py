"""Names of what our pages and tables show, and what their numbers mean: one table each, used everywhere."""

__all__ = ["CONTROLS", "DECODING", "PREDICTORS", "RECORDING", "SCORES", "STRATEGIES"]

PREDICTORS = {  # key in metrics.json -> name, in the order in which they are shown
    "ensemble": "ensemble",
    "network": "network alone",
    "scratch": "network trained from scratch",
    "ridge": "ridge regression",
    "wiener": "Wiener filter",
    "kalman": "Kalman filter",
    "naive_bayes": "Poisson naive Bayes",
    "gru": "recurrent network (GRU)",
    "ridge_time_gain": "ridge with time-varying gain",
    "oracle": "oracle (knows the simulator)",
    "time_only": "time-only (no spikes)",
    "block_permuted": "ridge, block-permuted targets",
    "circularly_shifted": "ridge, circularly shifted targets",
}
CONTROLS = ("block_permuted", "circularly_shifted")  # predictors that should find nothing
STRATEGIES = {  # of adaptation: key in the configuration -> name
    "full": "full fine-tuning",
    "contexts": "embeddings of units and sessions, and the read-in",
    "probe": "linear probe of the latents",
    "unsupervised": "masked prediction without labels",
    "align": "alignment of units to an earlier session, then masked prediction without labels",
}
SCORES = {  # by kind of target, beside R²: key in metrics.json, heading, decimals (None: three digits)
    "continuous": (("rmse", "RMSE ({unit})", None), ("correlation", "correlation", 3)),
    "angle": (("median_error_deg", "median error (°)", 1), ("mean_error_deg", "mean error (°)", 1)),
    "class": (
        ("accuracy", "accuracy", 3),
        ("balanced_accuracy", "balanced accuracy", 3),
        ("trial_accuracy", "trial accuracy", 3),
    ),
}

DECODING = {
    "R²": (
        "1 − Σ(y − ŷ)² / Σ(y − ȳ)², with both sums over all test bins of the session and all dimensions of the target "
        "(variance-weighted), ȳ being each dimension's mean over those bins. 1 is perfect; 0 is no better than that "
        "mean. Of directions, y is cosine and sine; of classes, one-hot labels (R² is then a Brier skill score)."
    ),
    "Test split": (
        "Contiguous time, or whole segments or trials where a recording is cut, that neither pretraining nor fitting "
        "nor any choice has seen, separated from the rest by a guard. All predictors are scored on the same bins and "
        "use spikes of the present and past only."
    ),
    "Ensemble": (
        "The decoder that a user gets: a weighted mean of the network and other predictors. The weights sum to 1 and "
        "minimise squared error on the validation split. Claims about pretraining rest on the network alone."
    ),
    "Within noise": (
        "A difference of at most 2 standard errors. Neighbouring bins have correlated errors, so standard errors and "
        "intervals come from a bootstrap over blocks of neighbouring test bins. They describe variation within this "
        "recording, not between recordings."
    ),
    "90 % interval, 90 % set": (
        "Split conformal: as wide as needed to hold 90 % of the validation bins; a value or direction plus or minus "
        "its half width, or all classes that are probable enough. Adaptive (online conformal) intervals widen after "
        "each miss and narrow after each hit; they need the target to arrive one bin later."
    ),
    "Input drift": (
        "Bins whose preceding seconds of spikes are out of the distribution of training: another population rate, "
        "other units, or a unit silent for longer than chance. 1 % of in-distribution bins are flagged."
    ),
    "Ridge regression": (
        "Linear regression on lagged, z-scored counts; the penalty and the number of lags are chosen on the validation "
        "split. The Wiener filter has next to no penalty. With time-varying gain, predictions are multiplied by one "
        "gain for each bin since the segment or trial began."
    ),
    "Kalman filter, naive Bayes, GRU": (
        "The Kalman filter models the target's dynamics, and counts given the target, as linear. Naive Bayes takes "
        "units as independent with Poisson counts given a cell of the target's space. The GRU is a small recurrent "
        "network. All are fitted on the training split."
    ),
    "Trained from scratch": "The same network trained on this session alone, without pretraining.",
    "Time-only": "Predicts from the time since the segment or trial began, without spikes.",
    "Block-permuted targets, circularly shifted targets": (
        "Ridge regression fitted to targets whose blocks of time were permuted, or that were shifted by half the "
        "training time; the latter keep slow drifts and rhythms. Both should score about 0, or below."
    ),
    "Oracle": "Simulated recordings only: a decoder that knows the simulator's parameters.",
    "Bits per spike": (
        "How much more likely the held-out counts are under the model than under each unit's mean rate in the training "
        "split, in bits and divided by the number of spikes."
    ),
}

RECORDING = {
    "Error, warning, note": (
        "Error: nothing can be learned from the recording. Warning: something may be wrong, or will surprise. Note: a "
        "property of the recording; no action is needed."
    ),
    "Observed": (
        "Time in which at least one unit was recorded: the file's obs_intervals without its invalid_times, or, where "
        "it has none, from its first to its last spike. Rates divide by the time in which their own unit was observed."
    ),
    "Presence": "Share of the blocks of time in which a unit was observed that hold a spike of it.",
    "Intervals under 2 ms": (
        "Share of a unit's inter-spike intervals that are shorter than 2 ms. A single unit has next to none; threshold "
        "crossings of several units have some, up to what chance gives."
    ),
    "Duplicates and cross-talk": (
        "Two units that share more of their spikes, to within half a millisecond, than chance, the session's typical "
        "pair and neighbouring lags allow: at least half of the less active unit's spikes for a duplicate, less for "
        "cross-talk. Masking one while its twin stays visible makes masked prediction look better than it is."
    ),
    "Coverage": (
        "Share of observed time in which a covariate was sampled; each sample reaches half a sampling interval to both "
        "sides."
    ),
    "Missing": "Share of a covariate's samples that hold no number. They are masked, and never filled.",
    "Train, validation, test": (
        "Contiguous time, or whole segments where a recording is cut, used by all pretraining and fine-tuning on this "
        "recording. Between them lies a guard as long as the model's window, here 2 s."
    ),
}
