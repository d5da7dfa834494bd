"""The labels of a pretrained decoder's target in another session, when the target is an expression."""

from dataclasses import replace

import numpy as np
import pytest
from problems import recording

from ndt.data.targets import build_targets
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.finetune.session_labels import kept_target
from ndt.intervals import Intervals
from ndt.model.checkpoint import TargetSpec

REQUEST = "side=sign(left-right)"
RNG = np.random.default_rng(0)


def binned(**columns) -> BinnedSession:
    """A recording of 30 s with a trial in each."""
    start = np.arange(30.0)
    trials = Intervals(start, start + 0.8, {k: np.asarray(v) for k, v in columns.items()})

    return BinnedSession(replace(recording(), intervals={"trials": trials}), 0.1, 0.5)


def test_an_expression_is_evaluated_anew_in_each_session() -> None:
    first = binned(left=RNG.permutation(30), right=RNG.permutation(30))
    labels = build_targets(first.session, REQUEST, first.start, first.bin_size)
    kept = TargetSpec.fitted(labels, first.split == TRAIN, "first")
    second = binned(left=np.full(30, 2.0), right=np.arange(30) % 4)  # never on the left if 3, and equal if 2
    for target in (None, REQUEST, "side", "class:side=sign( left - right )"):
        found = kept_target(kept, second, target)
        assert found.parts == kept.parts
        row = found.trial[0]
        expected = np.sign(2 - row % 4)[:, None] == [-1, 1]
        labelled = (row >= 0) & (row % 4 != 2)
        np.testing.assert_array_equal(found.values[labelled], expected[labelled])
        assert np.isnan(found.values[~labelled]).all()
    lacking = binned(up=np.arange(30))
    for target in (None, REQUEST, "side"):
        assert np.isnan(kept_target(kept, lacking, target).values).all()
    with pytest.raises(InputError, match="the target of the pretrained decoder"):
        kept_target(kept, second, "side=sign(right-left)")
