"""What the words and numbers on our pages mean, in the words shown there."""

__all__ = ["DECODING", "RECORDING"]

DECODING = {
    "R²": (
        "1 − Σ(y − ŷ)² / Σ(y − ȳ)², with both sums over all test bins of the session and all dimensions of the "
        "covariate at once (variance-weighted), ȳ being each dimension's mean over those bins. 1 is perfect, 0 is no "
        "better than that mean, and below 0 is worse. R² of one dimension uses that dimension alone; “uniform” is the "
        "plain mean over dimensions."
    ),
    "Test bins": (
        "Contiguous blocks of time, or of whole pieces or trials where a recording is cut, that neither pretraining "
        "nor fitting nor any choice has seen, with a guard between them and the rest. All predictors are scored on the "
        "same bins and use spikes of the present and past only."
    ),
    "Delivered decoder": (
        "What a user gets: a weighted mean of what the network and some others decode. The weights, of sum 1, are "
        "those with the least squared error on validation bins. What is said of pretraining rests on the network alone."
    ),
    "Within noise": (
        "A difference of at most 2 standard errors. Neighbouring bins err alike, so errors come from a bootstrap that "
        "draws blocks of neighbouring test bins, and intervals too. They say what another stretch of the same "
        "recording might show, not another recording."
    ),
    "90 % interval, 90 % set": (
        "Made so wide that it would have held 90 % of the validation bins (split conformal): a value or a direction "
        "plus or minus its half width, or all classes whose probability is high enough. Those that follow labels widen "
        "after each miss and narrow after each hit; they need the truth to arrive a bin later."
    ),
    "Out of range": (
        "Bins before which spikes were, over some seconds, unlike those of training: more or fewer in all, of other "
        "units, or none of one unit for longer than chance. Of bins like those of training 1 % is flagged."
    ),
    "Ridge": (
        "Linear regression on lagged, z-scored counts; penalty and number of lags are chosen on validation bins."
    ),
    "Wiener filter, Kalman filter, naive Bayes, recurrent network": (
        "The Wiener filter is ridge with next to no penalty. The Kalman filter has a linear model of how the covariate "
        "moves, and of counts given it; naive Bayes takes units for independent, with Poisson counts given the cell "
        "that the covariate is in. The recurrent network is a small GRU. All are fitted on training bins."
    ),
    "Ridge × gain over time": "Ridge times one gain for each bin since its piece or trial began, which a clock gives.",
    "From scratch": "A decoder that was trained on this session alone.",
    "Time alone": (
        "Knows no spikes, only the time since the piece or trial began. Where recordings are cut to movements, that "
        "alone predicts speed."
    ),
    "Shuffled": (
        "Ridge fitted to targets whose blocks of time were permuted: what the procedure finds where there is nothing."
    ),
    "Shifted": (
        "Ridge fitted to targets half a turn late, which keep their order but do not belong to the spikes: what slow "
        "drifts and rhythms seem to predict where there is nothing."
    ),
    "Oracle": (
        "Simulated recordings only: a decoder that knows the simulator's parameters. No decoder should beat it but by "
        "chance."
    ),
    "Bits per spike": (
        "How much more likely the held-out counts are under the model than under each unit's mean rate in the training "
        "block, in bits and divided by the number of spikes."
    ),
}

RECORDING = {
    "Error, warning, note": (
        "Error: nothing can be learned from the recording. Warning: something here may be wrong, or will surprise. "
        "Note: how the recording is; no action is needed."
    ),
    "Observed": (
        "Time in which at least one unit was recorded: the file's obs_intervals without its invalid_times, or, where "
        "it has none, from its first to its last spike. Rates divide by the time in which their own unit was observed. "
        "Silence in observed time is a measurement; outside of it there is none."
    ),
    "Presence": "Share of the blocks of time in which a unit was observed that hold a spike of it.",
    "Intervals under 2 ms": (
        "Share of a unit's inter-spike intervals that are shorter than 2 ms. A single unit has next to none; threshold "
        "crossings of several units have some, up to what chance gives."
    ),
    "Duplicates and cross-talk": (
        "Two units that share more of their spikes, to within half a millisecond, than chance, the session's typical "
        "pair and neighbouring lags allow: at least half of the less active unit's spikes for a duplicate, less for "
        "cross-talk. To hide one while its twin stays visible makes masked prediction look better than it is."
    ),
    "Coverage": (
        "Share of observed time in which a covariate was sampled; each sample reaches half a sampling interval to both "
        "sides."
    ),
    "Missing": "Share of a covariate's samples that hold no number. They are masked, and never filled.",
    "Train, validation, test": (
        "Contiguous blocks of time, or of whole pieces where a recording is cut, used by all pretraining and "
        "fine-tuning on this recording. Between them lies a guard as long as the model's window, here 2 s."
    ),
}
