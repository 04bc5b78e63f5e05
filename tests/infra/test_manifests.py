"""The manifests are valid, say the same as `luvc submit --print-manifest`, and fit what a run asks of Ray."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from luvc.errors import ConfigError
from pipeline import cli
from pipeline.config import load_config, parse_config
from pipeline.config_text import parse_yaml
from pipeline.run import kuberay
from pipeline.run.parcel import pack
from tests.infra.schemas import OBJECTS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kuberay"
NIGHTLY = ROOT / "configs" / "nightly.yaml"
IMAGE = "registry.example.com/luvc"


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with an object, with places."""
    validator = Draft202012Validator(OBJECTS[document["kind"]])
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]


def written(tmp_path: Path, **sections: Any) -> Path:
    values = {"inputs": [{"path": "s3://b/in"}], "output": {"path": "s3://b/out"}, **sections}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_object_is_valid(name):
    for document in read(name):
        assert problems(document) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec.update(backOffLimit=1), "backOffLimit"),
        (lambda spec: spec.update(backoffLimit="1"), "backoffLimit"),
        (lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="yes"), "authOptions.mode"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(minReplica=1), "minReplica"),
        (lambda spec: spec.pop("entrypoint"), "entrypoint"),
        (lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
    ],
)
def test_the_validator_finds_mistakes(change, said):
    job = copy.deepcopy(read("rayjob.yaml")[1])
    change(job["spec"])
    assert said in " ".join(problems(job))


def test_the_ray_job_is_what_submit_prints(capsys):
    assert cli.main(["submit", str(NIGHTLY), "--print-manifest", "--image", IMAGE]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == read("rayjob.yaml")


def test_the_standing_cluster_is_the_same_but_for_its_size():
    cluster = read("raycluster.yaml")[0]
    made = kuberay.ray_cluster(load_config(NIGHTLY), IMAGE)
    for group in made["workerGroupSpecs"]:
        group["replicas"] = 0
    made["workerGroupSpecs"][1]["maxReplicas"] = 4
    assert cluster["spec"] == made


def test_the_image_has_the_ray_of_the_manifests():
    assert f"ray=={kuberay.RAY_VERSION}\n" in (ROOT / "requirements" / "constraints.txt").read_text()


def test_nodes_have_room_for_what_a_run_asks_for():
    config = parse_config(
        {
            "inputs": [{"path": "s3://b/in"}],
            "output": {"path": "s3://b/out"},
            "run": {"actors": 6, "gpus_per_actor": 2, "cpus_per_actor": 3.5, "decode_cpus": 2},
        }
    )
    spec = kuberay.ray_cluster(config, "i")
    decode, gpu = spec["workerGroupSpecs"]
    asked = {group["groupName"]: group["template"]["spec"]["containers"][0]["resources"] for group in (decode, gpu)}
    assert asked["gpu"]["limits"]["nvidia.com/gpu"] == "2"
    assert int(asked["gpu"]["limits"]["cpu"]) >= 4 + 2  # an engine, and decoding beside it
    assert int(asked["decode"]["limits"]["cpu"]) >= 2
    assert "nvidia.com/gpu" not in asked["decode"]["limits"]
    assert (gpu["replicas"], gpu["maxReplicas"]) == (6, 6)
    # Nothing of a run asks for a CPU of the head: its board asks for none, and the driver is no task.
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_gpus_are_asked_for_before_their_nodes_are_there(tmp_path):
    text = kuberay.manifest(pack(written(tmp_path)), "i")
    config_map, job = yaml.safe_load_all(text)
    shipped = parse_config(parse_yaml(config_map["data"]["luvc.yaml"]))
    assert shipped.run.gpus_per_actor == 1
    assert problems(config_map) == problems(job) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("nightly", "luvc-nightly"), ("My.Videos_2", "luvc-my-videos-2"), ("x" * 90, "luvc-" + "x" * 35)],
)
def test_names_are_those_kubernetes_allows(tmp_path, name, expected):
    documents = list(yaml.safe_load_all(kuberay.manifest(pack(written(tmp_path, name=name)), "i")))
    assert [document["metadata"]["name"] for document in documents] == [expected, expected]
    assert not any(problems(document) for document in documents)


def test_arguments_reach_the_run(tmp_path, capsys):
    arguments = ["submit", str(written(tmp_path)), "--print-manifest", "--retry-failed", "--failed-ok"]
    assert cli.main(arguments) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[1]
    assert job["spec"]["entrypoint"] == "luvc run /etc/luvc/luvc.yaml --retry-failed=retryable --failed-ok"


def test_no_secret_in_a_manifest(tmp_path, monkeypatch):
    monkeypatch.delenv("S3_SECRET", raising=False)
    monkeypatch.setenv("S3_KEY", "the-key")
    storage = {"key": "${S3_KEY}", "secret": "written out", "client_kwargs": {"endpoint_url": "https://s3.example.com"}}
    path = written(tmp_path, output={"path": "s3://b/out", "storage": storage})
    with pytest.raises(ConfigError, match=r"no place for a secret: output.storage.secret \(write"):
        kuberay.manifest(pack(path), "i")
    text = kuberay.manifest(pack(path, ["output.storage.secret=${S3_SECRET}"]), "i")
    assert "${S3_KEY}" in text
    assert "the-key" not in text


def test_local_paths(tmp_path):
    with pytest.raises(ConfigError, match=r"relative path leads nowhere: output.path 'out/x'"):
        kuberay.manifest(pack(written(tmp_path), ["output.path=out/x"]), "i")
    text = kuberay.manifest(pack(written(tmp_path), ["output.path=/mnt/shared"]), "i")
    assert "# Note: output.path '/mnt/shared' is looked for on the nodes" in text


def test_the_nightly_cron_job_calls_a_command_that_exists():
    job = read("nightly-cronjob.yaml")[0]["spec"]["jobTemplate"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert container["command"][0] == "luvc"
    args = cli._parser().parse_args(container["command"][1:])
    assert (args.command, args.installed, args.job_id) == (cli._submit, True, "$(JOB_NAME)")
    env = {entry["name"]: entry for entry in container["env"]}
    assert (
        env["RAY_DASHBOARD_ADDRESS"]["value"]
        == f"http://{read('raycluster.yaml')[0]['metadata']['name']}-head-svc:8265"
    )
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == kuberay.TOKEN_SECRET
    exits = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert exits["values"] == [cli.EXIT_CONFIG, cli.EXIT_FAILED, cli.EXIT_QUALITY]
    assert exits["containerName"] == container["name"]
