"""Processes of a team take the same steps, as one process with all their batches would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.embedded_model.perceive import SOURCES, frames_of
from benchmarks.embedded_model.team import ALONE, Team

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, sys
from pathlib import Path
import torch
from benchmarks.embedded_model.team import Team

team, out = Team.join(), Path(sys.argv[1])
with team.leader_first():
    if team.leads:
        (out / "shared").write_text("from the leader")
    found = (out / "shared").read_text()
torch.manual_seed(0)
layer, unused = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([*layer.parameters(), unused], lr=0.1)
used_s, steps = 0.0, 0
while (used_s := team.agree(used_s)) < 3:
    data = torch.full((4, 3), float(team.rank + steps))
    loss = layer(data).square().mean() + (unused.sum() if team.leads else 0)
    optimizer.zero_grad()
    loss.backward()
    team.average([*layer.parameters(), unused])
    optimizer.step()
    used_s, steps = used_s + (1 if team.leads else 100), steps + 1
team.leave()
state = {"found": found, "steps": steps, "weight": layer.weight.tolist(), "unused": unused.tolist()}
(out / f"{team.rank}.json").write_text(json.dumps(state))
"""


def test_two_processes_are_one_with_both_batches(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(script), str(tmp_path)], check=True, cwd=ROOT, env=_environment(), timeout=120)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second, "the same steps everywhere, by the leader's clock"
    assert first["steps"] == 3
    assert first["found"] == "from the leader"

    torch.manual_seed(0)
    layer, unused = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([*layer.parameters(), unused], lr=0.1)
    for step in range(3):
        both = torch.cat([torch.full((4, 3), float(rank + step)) for rank in (0, 1)])
        optimizer.zero_grad()
        (layer(both).square().mean() + unused.sum() / 2).backward()
        optimizer.step()
    assert torch.allclose(torch.tensor(first["weight"]), layer.weight, atol=1e-5)
    assert torch.allclose(torch.tensor(first["unused"]), unused, atol=1e-5)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_one_process_is_a_team_of_its_own(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Team.join() == ALONE
    assert ALONE.leads
    assert ALONE.agree(2.5) == 2.5
    value = torch.nn.Parameter(torch.ones(1))
    ALONE.average([value])
    assert value.grad is None


@pytest.mark.parametrize("name", SOURCES)
def test_processes_never_draw_the_same_frame(name):
    whole = set(frames_of(name).seeds)
    parts = [set(frames_of(name, Team(rank, 3)).seeds) for rank in range(3)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) <= whole
