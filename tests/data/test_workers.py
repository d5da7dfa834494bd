import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ndt.data.workers import spread
from ndt.errors import InputError


def gone(process_id):
    """Waits up to 5 s for a process that is not ours to end; returns whether it did."""
    for _ in range(100):
        status = Path(f"/proc/{process_id}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def square(number):
    return number * number


def fatal(number):
    """Dies of 3, a while after it has begun, when others have begun too."""
    if number == 3:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def refuse(number):
    raise InputError("here", "number", "an even one", number) if number % 2 else ValueError(number)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_once(workers):
    found = dict(spread(square, range(20), workers))

    assert found == {i: i * i for i in range(20)}
    assert list(spread(square, [], workers)) == []


def test_one_worker_is_this_process():
    assert dict(spread(lambda _: os.getpid(), "ab", 1)) == {0: os.getpid(), 1: os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_raises_ends_it_all(workers):
    with pytest.raises(InputError, match="here: number: expected an even one, found 1"):
        list(spread(refuse, [1], workers))


def test_a_worker_that_dies_costs_the_item_it_died_of():
    found = list(spread(fatal, range(12), 2))

    assert dict(found) == {i: None if i == 3 else i * i for i in range(12)}
    assert len(found) == 12


FOREVER = """
import os, time
from ndt.data.workers import spread

def wait(i):
    print(os.getpid(), flush=True)
    time.sleep(60)

for _ in spread(wait, range(8), 2):
    pass
"""


def test_workers_end_with_who_started_them(tmp_path):
    """Joblib's would go on with what is queued, and write into a store that another run writes."""
    with (tmp_path / "pids").open("w") as out:
        child = subprocess.Popen([sys.executable, "-c", FOREVER], stdout=out, cwd=Path(__file__).parents[2])
    for _ in range(300):
        if len(pids := (tmp_path / "pids").read_text().split()) == 2:
            break
        time.sleep(0.1)
    child.kill()
    child.wait()

    assert len(pids) == 2
    assert all(gone(int(pid)) for pid in pids)


def test_nobody_at_the_address_of_a_cluster(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("ndt.data.workers.CONNECT_SECONDS", 0.2)

    with pytest.raises(InputError, match=r"tcp://127.0.0.1:9: cluster: expected the address of a Dask scheduler that"):
        list(spread(square, [1], cluster="tcp://127.0.0.1:9"))
    with pytest.raises(InputError, match="cluster: expected the address of a Dask scheduler that answers"):
        list(spread(square, [1], cluster="nonsense://"))


def test_a_cluster_needs_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not installed

    with pytest.raises(
        InputError, match=r"tcp://a:1: cluster: expected the extra that it needs: pip install 'ndt\[dask"
    ):
        list(spread(square, [1], cluster="tcp://a:1"))
