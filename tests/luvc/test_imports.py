"""`luvc/` runs where only torch and transformers are installed: no Ray, no PyAV, nothing of the pipeline."""

import sys

from pipeline import children

#: fsspec is not among them: torch needs it itself.
BLOCKED = ("ray", "av", "pyarrow", "pydantic", "pipeline", "gguf", "onnx")


def test_every_module_imports_without_the_pipelines_packages():
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import importlib, pkgutil, luvc
names = [m.name for m in pkgutil.walk_packages(luvc.__path__, "luvc.")]
assert "luvc.bench" in names and "luvc.families.qwen2_vl" in names
for name in names:
    if not name.startswith("luvc.embedded."):
        importlib.import_module(name)
"""
    children.run([sys.executable, "-c", code], check=True)
