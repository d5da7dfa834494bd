"""Real recordings for tests: `NDT_DATA` says where (default ``../shared/data`` beside the repository)."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("NDT_DATA", ROOT / "../shared/data"))


def real_file(pattern: str) -> Path:
    """Returns the one recording whose path below the data folder matches; skips the test where it is absent."""
    matches = sorted(DATA.glob(pattern))
    if not matches:
        pytest.skip(f"no real recording {pattern} (set NDT_DATA)")
    assert len(matches) == 1, f"{pattern} matches {len(matches)} files"
    return matches[0]
