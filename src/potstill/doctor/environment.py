"""Versions, devices, threads, disk, memory and optional extras of this machine, as lines."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

PACKAGE = "potstill"
EXTRAS = {
    "bench": "packages that the benchmarks compare with",
    "datasets": "rows of the hub",
    "demo": "teachers and texts of the built-in projects",
    "dev": "tests and checks of the package itself",
    "docs": "the pages of docs/ as a site",
    "executorch": "students as programs for ExecuTorch, on phones",
    "gguf": "teachers in GGUF files, and students as such",
    "harness": "tasks of lm-evaluation-harness",
    "large": "teachers in 4 or 8 bits, or spread over several GPUs",
    "lora": "narrow matrices that are trained beside the weights",
    "marian": "tokenizers of Marian",
    "math": "mathematical answers of language models, compared by what they mean",
    "onnx": "students as graphs for ONNX Runtime",
    "openvino": "students as graphs for OpenVINO",
    "playground": "the page of potstill playground",
    "tensorboard": "curves of a training in TensorBoard",
    "trackio": "curves of a training in Trackio",
    "wandb": "curves of a training in Weights & Biases",
}
"""What each optional extra is for."""
GIB = 2**30


def environment_lines() -> Iterator[str]:
    """All of it, section by section."""
    for title, lines in (
        ("versions", _versions()),
        ("devices", _devices()),
        ("threads", _threads()),
        ("disk and memory", _disk_and_memory()),
        ("extras", _extras()),
    ):
        yield title
        yield from (f"  {name:20} {text}" for name, text in lines)


def unmet_requirements() -> list[str]:
    """The packages that potstill needs and that are missing here or too old, each in one clause."""
    found = (_unmet(requirement) for requirement in _requirements(None))
    return [reason for reason in found if reason is not None]


def _requirements(extra: str | None) -> list[Requirement]:
    """What the installed package says that it needs, always or for an extra."""
    try:
        declared = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    chosen = []
    for requirement in map(Requirement, declared):
        marker = requirement.marker
        for_extra = marker is not None and "extra" in str(marker)
        if for_extra if extra is not None else not for_extra:
            wanted = marker is None or marker.evaluate({"extra": extra or ""})
            chosen += [requirement] if wanted else []
    return chosen


def _unmet(requirement: Requirement) -> str | None:
    found = _version(requirement.name)
    if found is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} is {found}, and {requirement.specifier} is needed"
    return None


def _version(name: str) -> str | None:
    if name == "torch":
        # Its package does not tell for which devices it was built.
        return torch.__version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    yield PACKAGE, _version(PACKAGE) or "not installed as a package, so what it needs is not known"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    unmet = {reason.split()[0]: reason for reason in unmet_requirements()}
    for requirement in _requirements(None):
        name = requirement.name
        yield name, f"FAILED: {unmet[name]}" if name in unmet else str(_version(name))


def _devices() -> Iterator[tuple[str, str]]:
    model, flags = _cpu()
    yield "cpu", f"{model}, {os.cpu_count()} logical cores, {torch.backends.cpu.get_cpu_capability()}"
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    yield "cpu, bfloat16", f"in hardware ({', '.join(native)})" if native else "emulated, slower than float32"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16 in hardware"
        yield f"cuda:{number}", f"{properties.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {half}"
    if not torch.cuda.is_available():
        why = "torch was built without it" if torch.version.cuda is None else f"torch has CUDA {torch.version.cuda}"
        yield "cuda", f"none ({why})"
    if torch.backends.mps.is_available():
        yield "mps", "there, and not used: training runs on CUDA devices or the CPU"


def _cpu() -> tuple[str, set[str]]:
    """Model and instruction sets, where the system tells."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(errors="replace") if path.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine(), set(flags[1].split() if flags else [])


def _threads() -> Iterator[tuple[str, str]]:
    yield (
        "torch threads",
        f"{torch.get_num_threads()} within an operation, {torch.get_num_interop_threads()} between them",
    )
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"):
        yield name, os.environ.get(name, "not set")


def _disk_and_memory() -> Iterator[tuple[str, str]]:
    for name, folder in (("this folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        usage = shutil.disk_usage(folder)
        yield name, f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {folder}"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    information = Path("/proc/meminfo")
    text = information.read_text() if information.exists() else ""
    available = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    free = f"{int(available[1]) * 1024 / GIB:.1f} of " if available else ""
    yield "memory", f"{free}{total / GIB:.1f} GiB{' available' if available else ''}"


def _extras() -> Iterator[tuple[str, str]]:
    try:
        names = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        names = []
    for name in sorted(names):
        # An extra that includes another one needs what that one needs.
        needed = [inner for each in _requirements(name) for inner in _without_itself(each)]
        missing = [reason for reason in map(_unmet, needed) if reason is not None]
        purpose = EXTRAS.get(name, "")
        if missing:
            yield name, f"no   {purpose} ({missing[0]}); pip install '{PACKAGE}[{name}]'"
        else:
            yield name, f"yes  {purpose}"


def _without_itself(requirement: Requirement) -> list[Requirement]:
    if requirement.name != PACKAGE:
        return [requirement]
    return [each for extra in sorted(requirement.extras) for each in _requirements(extra)]
