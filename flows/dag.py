"""The DAG as DVC sees it: `dvc.yaml` stays the only place where it is written."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import yaml
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage

from tasks.progress import cores

SLOTS = ("gpu", "cpu")


class Node(NamedTuple):
    """A stage: the addresses it waits for, the kind of slot it takes while it runs, the paths of its outputs, and
    whether it may have to run: False where neither it nor any stage above it has changed."""

    above: list[str]
    slot: str = "cpu"
    outs: tuple[str, ...] = ()
    changed: bool = True


Dag = dict[str, Node]
"""By a stage's address (`ingest`, `train@msg_gan`, `data/raw.dvc`), in an order in which every stage comes after those
it waits for."""


def read_dag(targets: Iterable[str] = ()) -> Dag:
    """The stages of the project around the working directory.

    With targets (addresses, or a group such as `train`), these and all that they depend on. The slot is what
    `meta: {slot: ...}` of the stage says, `cpu` where it says nothing. Raises `dvc.exceptions.DvcException` where
    there is no project, no such stage or a fault in `dvc.yaml`.
    """
    with Repo() as repo:
        graph = repo.index.graph.reverse()  # DVC's edges point from a stage to what it needs
        if wanted := {stage for name in targets for stage in repo.stage.collect(name)}:
            graph = graph.subgraph(wanted.union(*(nx.ancestors(graph, stage) for stage in wanted)))
        # Among stages that may swap places the order of dvc.yaml holds, so that who wrote it decides.
        written = {stage: place for place, stage in enumerate(repo.index.stages)}
        stale, dag = _stale(repo), Dag()
        for stage in nx.lexicographical_topological_sort(graph, key=written.__getitem__):
            above = sorted(other.addressing for other in graph.predecessors(stage))
            changed = stage.addressing in stale or any(dag[name].changed for name in above)
            dag[stage.addressing] = Node(above, _slot(stage), tuple(str(out) for out in stage.outs), changed)
        return dag


def names_menu(schema: dict[str, Any]) -> None:
    """Add to the JSON schema of a stage's name those that dvc.yaml has, groups too; nothing outside of a project."""
    if not Path("dvc.yaml").is_file():
        return
    names: list[str] = []
    for name, stage in (yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8")) or {}).get("stages", {}).items():
        names += [name, *(f"{name}@{item}" for item in stage.get("foreach", ()))]
    schema["enum"] = names


def _stale(repo: Repo) -> set[str]:
    """The stages that DVC finds changed; all of them where it cannot look, since another DVC is at work."""
    try:
        return set(repo.status(check_updates=False))
    except LockError:
        return {stage.addressing for stage in repo.index.stages}


def _slot(stage: Stage) -> str:
    slot = (stage.meta or {}).get("slot", "cpu")
    if slot not in SLOTS:
        raise DvcException(f"{stage.addressing}: meta.slot in dvc.yaml is {slot!r}; it must be {' or '.join(SLOTS)}")
    return str(slot)


def share(stage: str, dag: Dag, slots: int, place: int, devices: Sequence[str]) -> dict[str, str]:
    """Environment variables by which a stage keeps to its part of the machine.

    `slots`: how many its kind has, `place`: the one it takes, from 0; `devices`: CUDA devices by index or UUID, which
    gpu slots divide among them; of more slots than devices some have the same one.
    """
    result = {}
    if (part := threads(stage, dag, slots)) and "OMP_NUM_THREADS" not in os.environ:
        result["OMP_NUM_THREADS"] = str(part)
    if dag[stage].slot == "gpu" and slots > 1:
        count = len(devices)
        own = devices[place * count // slots : (place + 1) * count // slots] or [devices[place % count]]
        result["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return result


def threads(stage: str, dag: Dag, slots: int) -> int | None:
    """How many threads a stage should compute with; None: as many as it likes. `slots`: how many its kind has.

    Stages that may run at the same time, since neither is above the other, share the cores: threads that outnumber the
    cores wait for each other in busy loops, which made a stage beside a training many times slower.
    """
    above = _above(stage, dag)
    beside = [name for name in dag if dag[name].slot == dag[stage].slot and name not in above]
    side_by_side = min(sum(stage not in _above(name, dag) for name in beside), slots)
    return max(1, cores() // side_by_side) if side_by_side > 1 else None


def _above(stage: str, dag: Dag) -> set[str]:
    """All that a stage waits for."""
    direct = dag[stage].above
    return set(direct).union(*(_above(name, dag) for name in direct))
