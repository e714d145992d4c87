"""What the machines of a Ray cluster have, and in what they differ."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import code_digest
from robustprobe.core.registry import datasets
from robustprobe.datasets import load_dataset
from robustprobe.encoders import go_offline, load_encoder
from robustprobe.evaluation.executors.ray import connected
from robustprobe.results.provenance import hardware, versions

MISSING = "missing"


class Node(NamedTuple):
    """A machine: its name, what Ray may use of it, and facts that should be the same everywhere."""

    name: str
    resources: Mapping[str, float]
    facts: Mapping[str, str]


def nodes(address: str, root: Path, encoders: Sequence[str]) -> list[Node]:
    """Every machine of a cluster, asked for its versions, datasets and weights.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    with connected(address, workers=1) as (ray, _):
        ask = ray.remote(num_cpus=0)(facts)
        there = [node for node in ray.nodes() if node["Alive"]]
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        asked = [
            ask.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(root.absolute(), encoders)
            for node in there
        ]
        names = [node.get("NodeManagerHostname") or node["NodeID"][:8] for node in there]
        return [
            Node(name, {key: node["Resources"].get(key, 0.0) for key in ("CPU", "GPU")}, found)
            for name, node, found in zip(names, there, ray.get(asked), strict=True)
        ]


def facts(root: Path, encoders: Sequence[str]) -> dict[str, str]:
    """What this machine has."""
    go_offline()
    found: dict[str, Any] = {"python": platform.python_version(), **versions()}
    found |= {"robustprobe's code": code_digest(), "processor": hardware()}
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    for name in datasets.names():
        if not getattr(datasets.get(name), "by_path", False):
            found[f"dataset {name}"] = _dataset(name, root)
    for spec in encoders:
        found[f"encoder {spec}"] = _encoder(spec)
    return {key: str(value) for key, value in found.items()}


def _dataset(name: str, root: Path) -> str:
    try:
        data = load_dataset(name, root=root)
        return f"{len(data)} test images, {data.digest()}"
    except UserError:
        return MISSING


def _encoder(spec: str) -> str:
    try:
        return load_encoder(spec).digest[:16]
    except UserError:
        return MISSING


def differing(found: Sequence[Node]) -> dict[str, dict[str, list[str]]]:
    """Facts in which machines differ: by fact and value, the machines that have it."""
    keys = dict.fromkeys(key for node in found for key in node.facts)
    by_fact: dict[str, dict[str, list[str]]] = {}
    for key in keys:
        values: dict[str, list[str]] = {}
        for node in found:
            values.setdefault(node.facts.get(key, MISSING), []).append(node.name)
        if len(values) > 1:
            by_fact[key] = values
    return by_fact
