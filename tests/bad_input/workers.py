"""Workers that cannot be had."""

from __future__ import annotations

import pytest

from bad_input.lab import Lab
from bad_input.table import REFUSED, case
from diff_es.execution import RayWorkers
from diff_es.run import compress
from support import tiny_pipe


@case("workers: none", REFUSED, "workers=0 must be at least 1.")
def _(lab: Lab) -> object:
    return RayWorkers(0)


@case("workers: without threads", REFUSED, "worker_threads=0 must be at least 1.")
def _(lab: Lab) -> object:
    return RayWorkers(2, threads=0)


@case("workers: Ray is not installed", REFUSED, "workers=2 need Ray: pip install 'diff-es[ray]'.")
def _(lab: Lab) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diff_es.execution.ray_workers.find_spec", lambda name: None)
        lab.refused_with(RayWorkers(2))


@case(
    "workers: a pipeline that is loaded already",
    REFUSED,
    "pipe: workers load recipe.model themselves; leave pipe out, or do without workers.",
)
def _(lab: Lab) -> object:
    return compress(lab.finished.recipe, lab.run_folder, pipe=tiny_pipe(), workers=RayWorkers(2))


@case(
    "workers: address of Ray's client",
    REFUSED,
    "ray_address='ray://head:10001': start the run on a machine of the cluster, and give auto or host:port.",
)
def _(lab: Lab) -> object:
    return RayWorkers(2, "ray://head:10001")


@case(
    "workers: no cluster at the address",
    REFUSED,
    "ray_address='127.0.0.1:1': no Ray cluster answers (…Connection refused).",
)
def _(lab: Lab) -> None:
    _refused_away_from_any_cluster(lab, "127.0.0.1:1")


@case("workers: an address that is none", REFUSED, "ray_address='nowhere': no Ray cluster answers (…).")
def _(lab: Lab) -> None:
    _refused_away_from_any_cluster(lab, "nowhere")


def _refused_away_from_any_cluster(lab: Lab, address: str) -> None:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        # Other tests of this process may have started one, and who is connected stays so.
        patch.setattr("ray.is_initialized", lambda: False)
        lab.refused_with(RayWorkers(2, address))
