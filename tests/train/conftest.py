"""Fixtures of the tests of training."""

import pytest


@pytest.fixture(autouse=True)
def _no_measure_is_left_out(monkeypatch) -> None:
    """Dropout of settings is off unless a test says so; that of measures of activity has no setting.

    Processes and micro-batches draw dropout for themselves, and would take different steps.
    """
    monkeypatch.setattr("ndt.model.identity.KNOWN_DROPOUT", 0.0)
