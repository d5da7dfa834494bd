"""Calls a function for each of many items: in this process, in other local processes, or on a Dask cluster.

A process that dies (out of memory, a crash in a C library) loses only the item that caused it, and worker processes end
with their parent. On a cluster, tasks go to Dask directly: joblib would wait forever for a task whose worker died.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from joblib import Parallel, cpu_count, delayed

from ndt.errors import InputError

__all__ = ["DIED", "spread"]

T = TypeVar("T")
R = TypeVar("R")

DIED = "a crash of the process that read it, or no memory left for it"
CONNECT_SECONDS = 5.0


def spread(
    call: Callable[[T], R], items: Sequence[T], workers: int = 0, cluster: str = ""
) -> Iterator[tuple[int, R | None]]:
    """Yields the index of each item and the result of `call` for it, in order of completion.

    The result is None if the process died. An exception of `call` ends the iteration.

    Arguments:
        call: The function; it is pickled, and so are items and results.
        items: Its arguments.
        workers: Processes; 0 for one per core, 1 for this process.
        cluster: Address of a Dask scheduler whose workers are used instead.

    Raises:
        InputError: if no scheduler answers at the address, or its workers cannot run the function.
    """
    if cluster and items:
        with _client(cluster) as client:
            yield from _on_cluster(call, items, client, cluster)
    elif items:
        yield from _here(call, items, min(workers or cpu_count(), len(items)))


def _here(call: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[int, R | None]]:
    left = dict(enumerate(items))
    while left:
        begun: set[int] = set()
        try:
            for i, result in _run(call, list(left.items()), begun, workers):
                del left[i]
                yield i, result
        except BrokenProcessPool:
            for i in sorted(begun & left.keys()):  # one of these ended the process; repeat each alone
                yield i, _alone(call, i, left.pop(i))


def _run(call: Callable[[T], R], items: Iterable[tuple[int, T]], begun: set[int], n: int) -> Iterator[tuple[int, R]]:
    def jobs() -> Iterator[Any]:
        for i, item in items:
            begun.add(i)
            yield delayed(_numbered)(call, i, item, os.getpid())

    parallel: Any = Parallel(n_jobs=n, return_as="generator_unordered")
    yield from parallel(jobs())


def _alone(call: Callable[[T], R], i: int, item: T) -> R | None:
    """Calls the function in a process of its own; returns None if that dies."""
    try:
        ((_, result),) = _run(call, [(i, item)], set(), 2)
        return result
    except BrokenProcessPool:
        return None


def _numbered(call: Callable[[T], R], i: int, item: T, owner: int) -> tuple[int, R]:
    if os.getppid() == owner:
        _end_with(owner)

    return i, call(item)


@cache  # one thread per process
def _end_with(owner: int) -> None:
    """Ends this process after its parent; joblib's workers would continue with queued items."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(call: Callable[[T], R], items: Sequence[T], client: Any, where: str) -> Iterator[tuple[int, R | None]]:
    import distributed

    as_completed: Any = distributed.as_completed
    killed: list[int] = []
    futures = {client.submit(call, item, pure=False): i for i, item in enumerate(items)}
    for future, result in as_completed(list(futures), loop=client.loop, with_results=True, raise_errors=False):
        i = futures.pop(future)  # without a reference, the scheduler forgets the result
        if future.status == "finished":
            yield i, result
        elif future.status == "error" and isinstance(result[1], distributed.KilledWorker):
            killed.append(i)
        else:
            error = result[1] if future.status == "error" else "one that left"
            if isinstance(error, InputError):
                raise error
            raise InputError(where, "cluster", "a scheduler and workers that have this version of ndt", error)
    for i in killed:  # Dask also reports tasks that waited on the same worker; repeat each alone
        try:
            yield i, client.submit(call, items[i], pure=False).result()
        except distributed.KilledWorker:
            yield i, None


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """Yields a connection to a Dask scheduler that has workers."""
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(address, "cluster", "the extra that it needs: pip install 'ndt[dask]'", error) from error
    connect: Any = Client
    try:
        client = connect(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(address, "cluster", "the address of a Dask scheduler that answers", error) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise InputError(address, "cluster", "a Dask scheduler that has workers", "none") from error
        yield client
