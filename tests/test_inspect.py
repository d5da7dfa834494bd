import json

import pytest

from ndt.config import IngestConfig
from ndt.data.inspect import inspect
from ndt.errors import InputError
from tests.realdata import real_file
from tests.recordings import invalid, series, trials, units, write_nwb


def test_a_summary_says_what_is_kept_and_why_the_rest_is_not(tmp_path):
    fill = [units(electrodes=[1, 0, 1]), series(), series("slow", rate=0.5), trials, invalid((1.0, 2.5))]
    path = write_nwb(tmp_path / "sub-x_ses-1_ecephys.nwb", *fill)
    (found,) = inspect(f"{tmp_path}/*.nwb", IngestConfig(probe_seconds=0.0))

    assert json.loads(json.dumps(found)) == found
    expected = {
        "session_id": "sub-x_ses-1",
        "source": str(path),
        "size": path.stat().st_size,
        "subject": "x",
        "units": 3,
        "regions": ["M1", "PMd"],
        "spikes": 4,
        "pieces": 2,
        "intervals": {"invalid_times": 1, "trials": 3},
        "dropped": [
            "processing/behavior/slow: median rate 0.5 Hz is below 1 Hz",
            "units/spike_times: 4 of 8 spikes lie outside observed time",
        ],
    }
    assert {key: found[key] for key in expected} == expected
    assert found["observed_seconds"] == pytest.approx(4.0 - 1.5)
    (covariate,) = found["covariates"]
    assert covariate.pop("rate") == pytest.approx(20.0)
    assert covariate == {
        "name": "hand_vel",
        "path": "processing/behavior/hand_vel",
        "dims": ["0", "1"],
        "unit": "m/s",
        "samples": 80,
        "angular": False,
    }


def test_a_bad_file_is_an_input_error(tmp_path):
    (tmp_path / "a.nwb").write_text("no")

    with pytest.raises(InputError, match=r"a.nwb: file: expected an HDF5 file"):
        inspect([tmp_path / "a.nwb"])


@pytest.mark.real
def test_a_real_recording():
    (found,) = inspect(real_file("sub-A2929/*.nwb"))

    rates = {covariate["name"]: covariate["rate"] for covariate in found["covariates"]}
    assert rates["CompassDirection/ry"] == pytest.approx(120, rel=0.01)
    assert (found["units"], found["regions"]) == (15, ["adn", "ca1"])
