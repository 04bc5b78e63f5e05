"""What travels with a run: the configuration as written, checked, with paths and variables told apart."""

from __future__ import annotations

import os

import pytest
import yaml

from luvc.errors import ConfigError
from pipeline.config import parse_config
from pipeline.config_text import parse_yaml
from pipeline.errors import OutputError
from pipeline.run.parcel import leads_nowhere, pack, shared_folders
from pipeline.run.surroundings import check_output_is_kept


def written(tmp_path, **sections):
    values = {"inputs": [{"path": "s3://b/in"}], "output": {"path": "s3://b/out"}, **sections}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_overrides_travel_and_variables_stay_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET", "b")
    monkeypatch.delenv("S3_KEY", raising=False)
    path = written(tmp_path, compression="off", prompts={"no": "On? $5 or ${five}: yes"})
    overrides = ["output.path=s3://${BUCKET}/x", "output.storage={key: '$S3_KEY'}", "run.kv_bytes=1000000000"]
    parcel = pack(path, overrides)
    assert parcel.variables == ("BUCKET", "S3_KEY")
    assert "S3_KEY" not in os.environ
    assert parcel.config.output.path == "s3://b/x"
    again = parse_yaml(parcel.text())
    assert again["output"] == {"path": "s3://${BUCKET}/x", "storage": {"key": "$S3_KEY"}}
    monkeypatch.setenv("S3_KEY", "k")
    there = parse_config(again)
    assert there.config_hash == parcel.config.config_hash
    assert there.prompts[0].text == "On? $5 or ${five}: yes"
    assert there.output.storage == {"key": "k"}


def test_paths_of_this_machine_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHERE", raising=False)
    (tmp_path / "model").mkdir()
    path = written(
        tmp_path,
        inputs=[{"path": "videos"}, {"path": "s3://b/in"}, {"path": "file:///mnt/videos"}, {"path": "~/videos"}],
        model={"id": "model"},
    )
    parcel = pack(path, ["output.path=${WHERE}"])
    assert [(one.key, one.relative) for one in parcel.local_paths] == [
        ("inputs.0.path", True),
        ("inputs.2.path", False),
        ("inputs.3.path", True),
        ("model.id", True),
    ]
    error = leads_nowhere(parcel.local_paths)
    assert isinstance(error, ConfigError)
    assert "inputs.0.path 'videos', inputs.3.path '~/videos', model.id 'model'" in error.message
    assert shared_folders(parcel.local_paths) == [
        "inputs.2.path 'file:///mnt/videos' is looked for on the nodes: all of them must share it"
    ]
    moved = parcel.with_values({one.key: one.absolute for one in parcel.local_paths})
    assert moved.values["inputs"][0] == {"path": f"{tmp_path}/videos"}
    assert moved.values["inputs"][1] == {"path": "s3://b/in"}
    assert moved.values["model"] == {"id": f"{tmp_path}/model"}
    assert parcel.values["inputs"][0] == {"path": "videos"}


def test_nothing_is_wrong_with_urls(tmp_path):
    parcel = pack(written(tmp_path))
    assert parcel.local_paths == ()
    assert leads_nowhere(parcel.local_paths) is None
    assert parcel.with_values({"run.gpus_per_actor": 1}).values["run"] == {"gpus_per_actor": 1}


def test_secrets_that_are_written_out(tmp_path):
    storage = {
        "key": "a",
        "client_kwargs": {"aws_secret_access_key": "b", "endpoint_url": "https://x"},
        "token": "${TOKEN}",
        "anon": False,
    }
    parcel = pack(written(tmp_path, inputs=[{"path": "s3://b/in", "storage": storage}]))
    assert sorted(parcel.written_secrets()) == [
        "inputs.0.storage.client_kwargs.aws_secret_access_key",
        "inputs.0.storage.key",
    ]


@pytest.mark.parametrize(
    "overrides", [["output.path="], ["outptu.path=x"], ["inputs=x"], ["inputs.0=x"], ["inputs={}"]]
)
def test_mistakes_are_found_here(tmp_path, overrides):
    with pytest.raises(ConfigError, match=r"--set|run\.yaml"):
        pack(written(tmp_path), overrides)


def test_an_output_in_the_jobs_own_copy_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    check_output_is_kept(str(copy / "out"))  # no Ray job
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(OutputError, match=r"output.path: .*/out lies in this job's copy of the project"):
        check_output_is_kept(str(copy / "out"))
    check_output_is_kept(str(tmp_path / "out"))
    check_output_is_kept("s3://b/out")
