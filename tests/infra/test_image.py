"""The Dockerfile holds together: stages, files it copies, versions it installs. Building it needs a builder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import children

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            current = found.setdefault(rest.split(" AS ")[1].strip(), [])
        if word != "ARG" or found:
            current.append((word, rest))
    return found


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file from the builder: everything, but for what is named with `!`."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    kept = [line[1:] for line in lines if line.startswith("!")]
    return not any(path == name or path.startswith(f"{name}/") for name in kept)


def test_both_targets_exist_and_build_on_stages_that_do():
    found = stages()
    assert {"cpu", "cuda"} <= set(found)
    names = list(found)
    for name, lines in found.items():
        base = lines[0][1].split(" AS ")[0]
        assert base.startswith("python:") or base in names[: names.index(name)]
        for word, rest in lines:
            if word == "COPY" and rest.startswith("--from="):
                assert rest.split()[0].removeprefix("--from=") in names[: names.index(name)]


def test_everything_copied_exists_and_reaches_the_builder():
    copied = []
    for word, rest in instructions():
        if word == "COPY" and "--from=" not in rest:
            copied += [part for part in rest.split()[:-1] if not part.startswith("--")]
    assert {"luvc", "pipeline", "jobs", "configs", "pyproject.toml"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert not ignored(path), path


def test_the_code_comes_after_what_it_needs():
    for name in ("build-cpu", "build-cuda"):
        lines = [rest for word, rest in stages()[name] if word in ("RUN", "COPY")]
        needed = next(i for i, line in enumerate(lines) if "-r wanted.txt" in line)
        code = next(i for i, line in enumerate(lines) if line.startswith("luvc "))
        assert needed < code
        assert "-c requirements/constraints.txt" in lines[needed]
        assert lines[-1] == "pip install --no-deps ."


def test_nothing_runs_as_root():
    for name in ("cpu", "cuda"):
        users = [rest for word, rest in stages()[name] if word == "USER"]
        assert users == ["1000"]
    assert any("useradd" in rest and "--uid 1000 ray" in rest for _, rest in stages()["base"])


def test_every_requirement_is_pinned_to_a_version_it_allows():
    script = ROOT / "infra" / "requirements.py"
    (extras,) = re.findall(r"infra/requirements\.py ([\w ]+) > wanted\.txt", DOCKERFILE.read_text())
    done = children.run([sys.executable, str(script), *extras.split()], check=True)
    wanted = [Requirement(line) for line in done.stdout.splitlines()]
    assert {"torch", "ray", "s3fs", "nvidia-ml-py"} <= {one.name for one in wanted}
    for one in wanted:
        assert pins()[canonicalize_name(one.name)] in one.specifier, one
