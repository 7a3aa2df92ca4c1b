"""The Ray that workers run on: one that is there, or one of our own that nobody else can reach.

Whoever can talk to a Ray cluster can run code on it. So one that is started here has no dashboard and listens on the
loopback address only. Ray turns a loopback address that it is given into the machine's public one, unless it believes
that clusters are impossible, as on Windows and macOS (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, read when Ray is imported).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_driver

from diff_es.errors import InputError
from diff_es.execution.base import ExecutionError

logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
#: Bytes, about the least that Ray takes: tasks and results are small, banks are mapped from disk.
_OBJECT_STORE = 100 * 2**20
#: Seconds in which the head of a cluster must answer.
_ANSWER = 10.0


@contextmanager
def connected(address: str, *, cpus: int, gpus: bool) -> Iterator[None]:
    """Be connected to Ray while the context lasts.

    Args:
        address: A running cluster; empty starts Ray here. A process that is connected already stays so.
        cpus: Processors that a Ray started here may share out.
        gpus: Whether it looks for GPUs.

    Raises:
        InputError: no cluster answers.
        ExecutionError: Ray would listen beyond this machine.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _own_output():
        with _own_handlers():
            if address:
                _join(address)
            else:
                _begin(cpus, gpus=gpus)
        try:
            yield
        finally:
            with _own_handlers():
                ray.shutdown()


def check_resources(resource: str, each: int, count: int) -> None:
    """Check that all workers fit: Ray would wait for ever for what is not there.

    Raises:
        InputError: they do not.
    """
    there = int(ray.cluster_resources().get(resource, 0))
    if there < each * count:
        raise InputError(f"workers={count} need {each * count} × {resource}, and Ray has {there}; lower workers.")


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host:
            # Ray itself tries for minutes.
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    # Ray answers with ConnectionError (an OSError), ValueError or RuntimeError, by the way in which it is wrong.
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"ray_address={address!r}: no Ray cluster answers ({error}).") from error


def _begin(cpus: int, *, gpus: bool) -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address="local",  # also where RAY_ADDRESS names a cluster
            num_cpus=cpus,
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE,
            _node_ip_address=_LOOPBACK,
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    # What Ray keeps private may change.
    listens = {node["NodeManagerAddress"] for node in ray.nodes()}
    if listens != {_LOOPBACK}:
        ray.shutdown()
        raise ExecutionError(
            f"Ray {ray.__version__} listens on {', '.join(sorted(listens))}, beyond this machine, so it was ended. Set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, or start Ray yourself and give its address."
        )


@contextmanager
def _own_output() -> Iterator[None]:
    """Have what Ray says of dead workers in the log: it prints that on standard output, where results go."""
    before = ray_driver.print_to_stdstream

    def log(data: dict[str, Any], **_: object) -> None:
        logger.debug("Ray: %s", " ".join(data["lines"]))

    ray_driver.print_to_stdstream = log
    try:
        yield
    finally:
        ray_driver.print_to_stdstream = before


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep this process's way to end on a signal: Ray puts its own in the place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:  # one that was not set from Python cannot be set again
            signal.signal(signal.SIGTERM, before)
