"""Strict JSON schemas of the parts of Kubernetes and KubeRay objects that the manifests use.

Written after the field references of Kubernetes (core/v1, batch/v1) and KubeRay (ray.io/v1, version 1.6). A field that
is not listed is an error, so a misspelt one is found here and not by a cluster that ignores it.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
COUNT = {"type": "integer", "minimum": 0}
SECONDS = {"type": "integer", "minimum": 1}
FLAG = {"type": "boolean"}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def thing(required: str = "", **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def many(item: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


SELECTOR = thing("key operator", key=TEXT, operator=one_of("In", "NotIn", "Exists", "DoesNotExist"), values=many(TEXT))
AFFINITY = thing(
    nodeAffinity=thing(
        preferredDuringSchedulingIgnoredDuringExecution=many(
            thing(
                "weight preference",
                weight={"type": "integer", "minimum": 1, "maximum": 100},
                preference=thing(matchExpressions=many(SELECTOR)),
            )
        )
    )
)
TOLERATION = thing(
    "operator",
    key=TEXT,
    operator=one_of("Equal", "Exists"),
    value=TEXT,
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
)
AMOUNTS = thing("cpu memory", **{"cpu": QUANTITY, "memory": QUANTITY, "nvidia.com/gpu": QUANTITY})
ENV = thing(
    "name",
    name=TEXT,
    value={"type": "string"},
    valueFrom=thing(secretKeyRef=thing("name key", name=NAME, key=TEXT), fieldRef=thing("fieldPath", fieldPath=TEXT)),
)
CONTAINER = thing(
    "name image resources",
    name=NAME,
    image=TEXT,
    command=many(TEXT),
    args=many(TEXT),
    env=many(ENV),
    envFrom=many(thing(secretRef=thing("name", name=NAME, optional=FLAG))),
    resources=thing("limits requests", limits=AMOUNTS, requests=AMOUNTS),
    ports=many(thing("containerPort", containerPort={"type": "integer", "minimum": 1, "maximum": 65535}, name=NAME)),
    volumeMounts=many(thing("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
    lifecycle=thing(preStop=thing(exec=thing("command", command=many(TEXT)))),
)
POD = thing(
    "containers restartPolicy",
    restartPolicy=one_of("Never", "OnFailure", "Always"),
    securityContext=thing(runAsNonRoot=FLAG, runAsUser=SECONDS, fsGroup=SECONDS),
    nodeSelector=TEXTS,
    affinity=AFFINITY,
    tolerations=many(TOLERATION),
    terminationGracePeriodSeconds=COUNT,
    containers=many(CONTAINER),
    volumes=many(thing("name", name=NAME, configMap=thing("name", name=NAME))),
)
TEMPLATE = thing("spec", spec=POD)

RAY_CLUSTER = thing(
    "rayVersion headGroupSpec workerGroupSpecs authOptions",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=thing("mode", mode=one_of("disabled", "token"), secretName=NAME),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=thing(version=one_of("v1", "v2"), idleTimeoutSeconds=COUNT),
    headGroupSpec=thing("rayStartParams template", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=many(
        thing(
            "groupName replicas minReplicas maxReplicas rayStartParams template",
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=SECONDS,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
RAY_JOB = thing(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    preRunningDeadlineSeconds=SECONDS,
    rayClusterSpec=RAY_CLUSTER,
)
POLICY = thing(
    "action",
    action=one_of("FailJob", "Ignore", "Count", "FailIndex"),
    onExitCodes=thing(
        "operator values",
        containerName=NAME,
        operator=one_of("In", "NotIn"),
        values=many({"type": "integer", "minimum": 1, "maximum": 255}),
    ),
    onPodConditions=many(thing("type status", type=TEXT, status=one_of("True", "False", "Unknown"))),
)
CRON_JOB = thing(
    "schedule jobTemplate",
    schedule={"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
    timeZone=TEXT,
    concurrencyPolicy=one_of("Allow", "Forbid", "Replace"),
    startingDeadlineSeconds=SECONDS,
    successfulJobsHistoryLimit=COUNT,
    failedJobsHistoryLimit=COUNT,
    jobTemplate=thing(
        "spec",
        spec=thing(
            "template",
            backoffLimit=COUNT,
            activeDeadlineSeconds=SECONDS,
            podFailurePolicy=thing("rules", rules=many(POLICY)),
            template=TEMPLATE,
        ),
    ),
)


def _object(version: str, kind: str, longest_name: int = 63, **fields: Any) -> dict[str, Any]:
    return thing(
        "apiVersion kind metadata " + " ".join(fields),
        apiVersion=one_of(version),
        kind=one_of(kind),
        metadata=thing("name", name={**NAME, "maxLength": longest_name}),
        **fields,
    )


#: By kind. KubeRay puts words behind the names of its objects, so they have to be shorter than others.
OBJECTS = {
    "ConfigMap": _object("v1", "ConfigMap", data=TEXTS),
    "CronJob": _object("batch/v1", "CronJob", 52, spec=CRON_JOB),
    "RayCluster": _object("ray.io/v1", "RayCluster", 50, spec=RAY_CLUSTER),
    "RayJob": _object("ray.io/v1", "RayJob", 47, spec=RAY_JOB),
}
