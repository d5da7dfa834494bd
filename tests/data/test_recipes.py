import re
from dataclasses import replace

import numpy as np
import pytest

from ndt.config import IngestConfig
from ndt.data.read.remote import SPEC
from ndt.data.reading import read
from ndt.data.recipes import load_recipe, recipe_names, recipes_table
from ndt.data.splits import split
from ndt.errors import InputError
from ndt.spikes import bin_spikes
from tests import stand_ins

DANDI = re.compile(SPEC.pattern, re.IGNORECASE)
NAMES = recipe_names()


def _settings(name):
    """The recipe's settings; the child process that opens files first has its own tests."""
    return replace(load_recipe(name).ingest, probe_seconds=0.0)


# What every recipe has


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_where_from_under_which_licence_what_to_cite_and_whether_it_was_tried(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.licence == "CC-BY-4.0"  # what the archives state of all of these
    assert all(len(cite) > 40 for cite in recipe.cite)
    assert recipe.cite
    assert isinstance(recipe.ingest, IngestConfig)
    assert recipe.tried or len(recipe.reason) > 40
    kind, _, record = recipe.source.partition(":")
    assert (kind == "dandi" and DANDI.fullmatch(recipe.source)) or (kind == "zenodo" and record.isdigit())
    assert 0.001 <= recipe.bin_size <= 0.1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_to_be_decoded_is_read(name):
    recipe = load_recipe(name)
    read_in = {c.split("=")[0] for c in (*recipe.ingest.covariates, *recipe.ingest.arrays.covariates)}
    assert recipe.covariate in read_in | {""}
    assert (recipe.covariate == "") == (name in ("falcon_h2", "dmfc_rsg"))  # one label a trial


def test_no_public_set_is_said_to_have_been_tried():
    assert {row["name"]: row["tried"] for row in recipes_table()} == dict.fromkeys(NAMES, False)


def test_the_sets_that_were_asked_for_have_a_recipe():
    sources = " ".join(row["source"] for row in recipes_table())
    asked = "000070 000128 000129 000138 000139 000140 000409 000941 000950 000953 000954 3854034".split()
    assert [number for number in asked if number not in sources] == []


def test_addresses_are_what_ingest_takes():
    assert load_recipe("mc_maze_small").addresses == ("dandi:000140@0.220113.0408/*desc-train*.nwb",)
    assert all(DANDI.fullmatch(a) for name in NAMES for a in load_recipe(name).addresses)
    assert load_recipe("indy_loco_ndt2").addresses == ()  # to be downloaded by hand


def test_falcons_minival_is_left_out_since_it_repeats_held_in_days():
    from fnmatch import fnmatchcase

    paths = [f"sub-MonkeyL-{part}/sub-MonkeyL-{part}_ses-1_behavior+ecephys.nwb" for part in ("held-in-calib",)]
    paths += [path.replace("calib", "minival") for path in paths]
    taken = [p for p in paths if any(fnmatchcase(p, pattern) for pattern in load_recipe("falcon_m1").files)]
    assert taken == paths[:1]


# What is wrong with a recipe

GOOD = """
title: t
source: zenodo:1
files: ["*.mat"]
licence: CC0-1.0
cite: [a]
tried: true
covariate: vel
ingest: {select: "rate_hz > 1"}
"""


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert (recipe.name, recipe.licence, recipe.ingest.select) == ("mine", "CC0-1.0", "rate_hz > 1")


WRONG = {
    "no licence": (GOOD.replace("licence: CC0-1.0", ""), r"recipe: expected the keys title, .*, found no licence"),
    "unknown": (GOOD + "author: me\n", r"recipe\.author: expected one of: .*, found an unknown setting"),
    "unknown setting": (GOOD.replace("select", "selct"), r"recipe\.ingest\.selct: expected one of: .*"),
    "range": (GOOD.replace("select: ", "workers: -1, select: "), r"recipe\.ingest\.workers: expected 0 to 4096, .*"),
    "no list": (GOOD.replace('["*.mat"]', "x"), r"recipe\.files: expected a list of words, found 'x'"),
    "no reason": (GOOD.replace("true", "false"), r"recipe\.reason: expected why it was not tried, found none"),
    "a name": (GOOD + "name: x\n", r"recipe\.name: expected no name: .*"),
    "no mapping": ("[1, 2]", r"recipe: expected the keys .*, found no title"),
    "no yaml": ("a: [", r"recipe: expected a YAML file, found .*"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_recipe_is_said_in_one_line(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: {message}$"):
        load_recipe(path)


def test_an_unknown_name_lists_all_names():
    with pytest.raises(InputError) as error:
        load_recipe("mc_mase")
    assert all(name in str(error.value) for name in NAMES)
    assert "\n" not in str(error.value)


# What comes of stand-ins of the real files


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    return stand_ins.write_nlb(tmp_path_factory.mktemp("nlb") / "sub-Jenkins_ses-full_desc-train.nwb")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("mc_maze")])
def test_mc_maze(name, maze):
    session = read(maze, _settings(name))
    assert set(session.covariates) == {"hand_pos", "hand_vel"}
    assert (session.covariates["hand_vel"].dims, session.covariates["hand_vel"].unit) == (("x", "y"), "mm/s")
    np.testing.assert_array_equal(session.units.columns["heldout"], [False, False, False, True] * 2)
    assert list(session.units.id) == [f"Jenkins/{n}" for n in (1000, 1001, 1002, 1003, 2000, 2001, 2002, 2003)]
    assert len(session.observed) == 10  # one a trial
    test = split(session, 0.0).test
    np.testing.assert_allclose(
        test.start, 2.25 * np.arange(7, 10), rtol=0, atol=1e-9
    )  # the benchmark's validation trials
    assert split(session, 0.0).train.end[-1] <= 2.25 * 7


def test_mc_rtt(tmp_path):
    path = stand_ins.write_nlb(tmp_path / "sub-Indy_desc-train.nwb", rtt=True)
    session = read(path, _settings("mc_rtt"))
    assert set(session.covariates) == {"cursor_pos", "finger_vel"}
    assert len(session.observed) == 1
    blocks = split(session, 0.5)
    np.testing.assert_allclose([blocks.test.start[0], blocks.test.end[-1]], [14.0, 20.0], rtol=0, atol=1e-9)
    assert blocks.train.end[-1] <= blocks.valid.start[0] - 0.5


def test_falcon_h1_where_the_period_is_kept_as_a_rate(tmp_path):
    session = read(
        stand_ins.write_falcon_h1(tmp_path / "sub-HumanPitt-held-in-calib_ses-1.nwb"), _settings("falcon_h1")
    )
    velocity = session.covariates["OpenLoopKinematicsVelocity"]
    np.testing.assert_allclose(velocity.timestamps[:3], [0.01, 0.03, 0.05], rtol=0, atol=1e-9)  # of bins that end later
    np.testing.assert_allclose(velocity.values, stand_ins.path_of(20.0, 50.0, 7), rtol=0, atol=1e-6)  # no offset added
    assert velocity.values.shape == (1000, 7)
    assert len(session.intervals["eval_mask"]) == 5  # 3 s of every 4


def test_falcon_h2_counts(tmp_path):
    session = read(stand_ins.write_falcon_h2(tmp_path / "sub-T5-held-in-calib_ses-1.nwb"), _settings("falcon_h2"))
    counts = np.random.default_rng(0).poisson(0.3, (900, 12))
    assert (session.count_bin, session.num_units) == (0.02, 12)
    np.testing.assert_allclose(session.observed.start, [0.0, 7.0, 14.0], rtol=0, atol=1e-9)  # timestamps are ends
    for k in range(3):
        np.testing.assert_array_equal(bin_spikes(session, 7.0 * k, 0.02, 300), counts[300 * k : 300 * (k + 1)])
    np.testing.assert_array_equal(session.intervals["trials"].columns["cue"], ["to>be", "or>not", "to>be>that"])


def test_falcon_m1_muscles_are_one_covariate(tmp_path):
    session = read(stand_ins.write_falcon_m1(tmp_path / "sub-MonkeyL-held-in-calib_ses-1.nwb"), _settings("falcon_m1"))
    assert set(session.covariates) == {"preprocessed_emg"}
    emg = session.covariates["preprocessed_emg"]
    assert sorted(emg.dims) == sorted(stand_ins.MUSCLES)
    expected = np.abs(stand_ins.path_of(20.0, 50.0, 16))[: len(emg.values)]
    for name in stand_ins.MUSCLES:
        column = expected[:, stand_ins.MUSCLES.index(name)]
        np.testing.assert_array_equal(emg.values[:, emg.dims.index(name)], column)
    assert len(session.intervals["eval_mask"]) == 10


def test_falcon_m2_fingers(tmp_path):
    session = read(stand_ins.write_falcon_m2(tmp_path / "sub-MonkeyN-held-in-calib_ses-1.nwb"), _settings("falcon_m2"))
    assert set(session.covariates) == {"finger_pos", "finger_vel"}
    assert session.covariates["finger_vel"].dims == ("index", "mrs")


@pytest.mark.parametrize("task", ["h2", "m2"])
def test_a_channel_of_falcon_is_the_same_unit_on_held_in_and_held_out_days(task, tmp_path):
    write = getattr(stand_ins, f"write_falcon_{task}")
    days = {
        split: tmp_path / f"sub-X-{split.replace('_', '-')}_ses-1.nwb" for split in ("held_in_calib", "held_out_calib")
    }
    one, other = (read(write(path, split), _settings(f"falcon_{task}")) for split, path in days.items())
    np.testing.assert_array_equal(one.units.id, other.units.id)


def test_churchland_maze(tmp_path):
    path = stand_ins.write_churchland(tmp_path / "sub-Jenkins_ses-20090912.nwb")
    session = read(path, _settings("churchland_maze"))
    assert set(session.covariates) == {"Position/Cursor", "Position/Hand", "hand_vel"}
    assert len(session.observed) == 9


def test_ibl_keeps_units_that_pass_all_criteria_and_names_them_by_session(tmp_path):
    session = read(stand_ins.write_ibl(tmp_path / "sub-NYU-21_ses-a.nwb"), _settings("ibl_brainwide_map"))
    np.testing.assert_array_equal(session.units.columns["unit_name"], ["probe00_3", "probe01_3"])
    assert all(str(unit).startswith("sub-NYU-21_ses-a/") for unit in session.units.id)
    assert sorted(session.covariates) == ["BodyCameraMotionEnergy", "LeftCameraMotionEnergy", "WheelVelocitySmoothed"]
    assert session.covariates["WheelVelocitySmoothed"].interval == pytest.approx(0.001)


@pytest.fixture(scope="module")
def indy(tmp_path_factory):
    values = stand_ins.indy_values(num_channels=8, seconds=90.0, arrays=2)
    folder = tmp_path_factory.mktemp("indy")
    return {
        name: stand_ins.write_mat73(folder / f"{name}.mat", values) for name in ("indy_20160407_02", "loco_20170210_03")
    }


@pytest.mark.parametrize("name", ["indy_loco_ndt2", "indy_loco_ndt3"])
def test_indys_channels_are_summed_and_keep_their_name_from_day_to_day(name, indy):
    session = read(indy["indy_20160407_02"], replace(_settings(name), split=""))
    assert list(session.units.id) == [f"indy/M1/0000{n}/0" for n in (1, 2, 3, 4)]  # S1 is left out
    cells = stand_ins.indy_values(num_channels=8, seconds=90.0, arrays=2)["spikes"][:4]
    total = [sum(cell.size for cell in row) for row in cells]
    np.testing.assert_array_equal(np.bincount(session.spikes.unit_index, minlength=4), total)
    assert total[2] == 0  # a silent channel stays, so that channels are the same on all days
    velocity = session.covariates["cursor_vel"]
    assert (velocity.values.shape, velocity.unit) == ((22500, 2), "mm/s")


def test_the_first_minute_of_an_evaluated_session_calibrates(indy):
    session = read(indy["indy_20160407_02"], _settings("indy_loco_ndt3"))
    blocks = split(session, 0.0)
    start = session.observed.start[0]
    assert blocks.test.start[0] == pytest.approx(start + 60.0)
    assert blocks.test.duration == pytest.approx(session.observed.duration - 60.0)
    assert blocks.valid.end[-1] == pytest.approx(start + 60.0)


def test_a_session_that_is_not_evaluated_is_not_cut_to_a_minute(indy):
    session = read(indy["loco_20170210_03"], _settings("indy_loco_ndt3"))
    assert split(session, 0.0).train.duration > 60.0
