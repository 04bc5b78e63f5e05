"""The Kubernetes manifest of one run: a ConfigMap with its configuration and a KubeRay RayJob that runs it.

`infra/kuberay/rayjob.yaml` is what this makes of configs/nightly.yaml, with comments; a test keeps them the same.
Pure: plain data in, text out.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from luvc.errors import ConfigError
from pipeline.config import Encoders, RunConfig, RunSettings
from pipeline.run.parcel import Parcel, leads_nowhere, shared_folders

RAY_VERSION = "2.60.0"
TOKEN_SECRET = "luvc-ray-token"
STORAGE_SECRET = "luvc-storage"
MOUNT = "/etc/luvc"

#: CPUs and memory of a node that decodes; and of a GPU worker, beside what its engine reserves.
DECODE_CPUS = 16
GPU_WORKER_DECODE_CPUS = 8
MEMORY_PER_CPU_GIB = 4
MOST_DECODE_NODES = 8

#: Names that clouds give to nodes that may be taken away, as taints and as labels (GKE, Karpenter, AKS).
_SPOT = {
    "cloud.google.com/gke-spot": "true",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}

_HEADER = f"""\
# Once for the namespace:
#   kubectl create secret generic {TOKEN_SECRET} --from-literal=auth_token="$(openssl rand -hex 32)"
#   kubectl create secret generic {STORAGE_SECRET} --from-literal=S3_KEY=... --from-literal=S3_SECRET=...
# Then, each time (a run on the same output folder continues where the last one stopped):
#   kubectl delete rayjob NAME --ignore-not-found && kubectl apply -f THIS_FILE
"""


def manifest(parcel: Parcel, image: str, arguments: Sequence[str] = ()) -> str:
    """YAML for `kubectl apply -f`.

    Args:
        parcel: the configuration.
        image: name of the container image made from infra/Dockerfile, without its tag ("cpu", "cuda").
        arguments: more arguments of `luvc run`.

    Raises:
        ConfigError: a path means nothing in a cluster, or a secret is written into the configuration.
    """
    wrong = leads_nowhere(parcel.local_paths)
    if wrong:
        raise wrong
    written = parcel.written_secrets()
    if written:
        raise ConfigError(
            f"a manifest is no place for a secret: {', '.join(written)}",
            f'write "${{NAME}}" there, and put NAME into the Kubernetes Secret {STORAGE_SECRET}',
        )
    name = object_name(parcel.config.name)
    # While the GPU nodes are still on their way, "auto" would find no GPU and run on CPUs.
    if parcel.config.run.gpus_per_actor == "auto":
        parcel = parcel.with_values({"run.gpus_per_actor": 1})
    documents = [config_map(name, parcel.text()), ray_job(name, parcel.config, image, arguments)]
    notes = [f"# Note: {line}\n" for line in shared_folders(parcel.local_paths)]
    return (
        _HEADER.replace("NAME", name)
        + "".join(notes)
        + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)
    )


def object_name(name: str) -> str:
    """A run's name as Kubernetes allows it."""
    return re.sub(r"[^a-z0-9]+", "-", f"luvc-{name}".lower()).strip("-")[:40].rstrip("-")


def config_map(name: str, text: str) -> dict[str, Any]:
    """The configuration as a file for the head node, where the run's driver is."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"luvc.yaml": text},
    }


def ray_job(name: str, config: RunConfig, image: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """A cluster for this run alone, which goes away with it."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            # 0 also when some units failed: they would fail again in the next cluster. Their rows are in failures/.
            # 4, quality below the threshold, stays: each further try finds nothing to do and says so again.
            "entrypoint": shlex.join(
                ["luvc", "run", f"{MOUNT}/luvc.yaml", *dict.fromkeys([*arguments, "--failed-ok"])]
            ),
            "backoffLimit": 2,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60,
            "preRunningDeadlineSeconds": 3600,
            "rayClusterSpec": ray_cluster(config, image, mounted=name),
        },
    }


def ray_cluster(config: RunConfig, image: str, mounted: str | None = None) -> dict[str, Any]:
    """Head, decode nodes and GPU workers.

    Args:
        mounted: name of a ConfigMap for the head to mount.
    """
    run = config.run
    pools: list[RunSettings | Encoders] = [run, run.encoders] if run.topology == "split" else [run]
    gpus = max(1 if pool.gpus_per_actor == "auto" else math.ceil(pool.gpus_per_actor) for pool in pools)
    cpus = math.ceil(max(pool.cpus_per_actor for pool in pools)) + GPU_WORKER_DECODE_CPUS
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300},
        "headGroupSpec": {
            # The head decodes nothing and holds no model: a busy head loses its cluster.
            "rayStartParams": {"num-cpus": "0"},
            "template": _head(image, mounted),
        },
        "workerGroupSpecs": [
            _workers("decode", f"{image}:cpu", DECODE_CPUS, 0, 1, MOST_DECODE_NODES),
            _workers("gpu", f"{image}:cuda", cpus, gpus, run.model_actors, run.model_actors),
        ],
    }


def _head(image: str, mounted: str | None) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "ray-head",
        "image": f"{image}:cpu",
        "envFrom": [{"secretRef": {"name": STORAGE_SECRET, "optional": True}}],
        "resources": _resources(4, 16),
        "ports": [
            {"containerPort": 6379, "name": "gcs-server"},
            {"containerPort": 8265, "name": "dashboard"},
            {"containerPort": 10001, "name": "client"},
            {"containerPort": 8080, "name": "metrics"},
        ],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "affinity": _affinity("NotIn"),
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
    }
    if mounted:
        container["volumeMounts"] = [{"name": "config", "mountPath": MOUNT, "readOnly": True}]
        spec["volumes"] = [{"name": "config", "configMap": {"name": mounted}}]
    return {"spec": spec}


def _workers(group: str, image: str, cpus: int, gpus: int, replicas: int, most: int) -> dict[str, Any]:
    tolerations: list[dict[str, str]] = [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} for key, value in _SPOT.items()
    ]
    if gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    return {
        "groupName": group,
        "replicas": replicas,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": {
            "spec": {
                # A Ray node that ended comes back as a new pod, never as the old one: the autoscaler counts on it.
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
                "nodeSelector": {"kubernetes.io/arch": "amd64"},
                "affinity": _affinity("In"),
                "tolerations": tolerations,
                "terminationGracePeriodSeconds": 60,
                "containers": [
                    {
                        "name": "ray-worker",
                        "image": image,
                        "envFrom": [{"secretRef": {"name": STORAGE_SECRET, "optional": True}}],
                        "resources": _resources(cpus, cpus * MEMORY_PER_CPU_GIB, gpus),
                        # Ray then moves on at once, instead of finding out by missed heartbeats.
                        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", "ray stop"]}}},
                    }
                ],
            }
        },
    }


def _resources(cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    """Requests equal limits: Ray counts what it may use, and the kernel kills what goes over."""
    amounts = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"limits": amounts, "requests": dict(amounts)}


def _affinity(operator: str) -> dict[str, Any]:
    """A preference for nodes that may be taken away (cheap), or against them (the head)."""
    terms = [
        {
            "weight": 1,
            "preference": {"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]},
        }
        for key, value in _SPOT.items()
    ]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
