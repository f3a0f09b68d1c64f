"""The device that a run computes on: which one `run.device` means, and what it can do.

PyTorch is imported where it is asked: `run.device = "cpu"` needs no answer of it.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lengthen.config.schema import Run
from lengthen.util.errors import SettingError

if TYPE_CHECKING:
    import torch

SHARED_OUT = ("auto", "cuda")  # devices of which each run side by side gets a card of its own
# What PyTorch looks for: C++ for a processor's code, C for what starts a GPU's.
COMPILERS = {"cpu": ["clang++" if sys.platform == "darwin" else "g++"], "cuda": ["gcc", "clang"]}


def gpus() -> int:
    """Return the number of GPUs that PyTorch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cards(setting: str) -> int:
    """Return how many GPUs runs of one `run.device` can have, side by side; 0 for the CPU."""
    if setting == "cpu":
        return 0
    return gpus() if setting in SHARED_OUT else 1


def device_of(setting: str) -> "torch.device":
    """Return the device that `run.device` means in this process, and make it CUDA's current one.

    "auto" is a GPU of CUDA where there is one, else the CPU. Of several processes each takes the
    card of its LOCAL_RANK. Raises SettingError where the device is not here.
    """
    import torch

    available, several = gpus(), launcher_variable("WORLD_SIZE", 1) > 1
    if setting == "cpu" or (setting == "auto" and not available):
        return torch.device("cpu")
    if setting == "mps":
        return _mps(several=several)
    if not available:
        built = torch.version.cuda or torch.version.hip
        rule = "PyTorch finds no GPU here" if built else "this PyTorch is built without CUDA"
        raise SettingError("run.device", rule, setting, 'set "cpu" or "auto"')
    number = setting.partition(":")[2]
    if number and several:
        rule = "cannot be one card for several processes: each takes that of its LOCAL_RANK"
        raise SettingError("run.device", rule, setting, 'set "cuda" or "auto"')
    card = int(number or (launcher_variable("LOCAL_RANK") if several else 0))
    if card >= available:
        finds = f"PyTorch finds {available} GPU{'s' * (available > 1)} here"
        if not several:
            hint = f'did you mean "cuda:{available - 1}"?'
            raise SettingError("run.device", finds, setting, hint)
        rule = f"each process needs a GPU of its own, and {finds}, none for LOCAL_RANK {card}"
        hint = f"start at most {available} processes here"
        raise SettingError("run.device", rule, setting, hint)
    device = torch.device("cuda", card)
    torch.cuda.set_device(device)
    return device


def _mps(*, several: bool) -> "torch.device":
    import torch

    if not torch.backends.mps.is_available():
        rule = "PyTorch finds no Apple GPU here"
        raise SettingError("run.device", rule, "mps", 'set "cpu" or "auto"')
    if several:
        raise SettingError("run.device", "works for one process alone", "mps", 'set "cpu"')
    return torch.device("mps")


def device_here(setting: str) -> "torch.device":
    """Return the device of a run that may be planned for another machine, or that of "auto"."""
    try:
        return device_of(setting)
    except SettingError:
        return device_of("auto")


def described(device: "torch.device") -> str:
    """Return what a device is called, a GPU with its number and its model."""
    import torch

    if device.type != "cuda":
        return device.type
    return f"{device}, {torch.cuda.get_device_name(device)}"


def matmul_precision(device: "torch.device") -> str:
    """Return how products of float32 are computed: ieee, tf32 or bf16, as the process has set."""
    import torch

    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    given = str(backend.matmul.fp32_precision)
    return "ieee" if given == "none" else given


def check_supports(device: "torch.device", run: Run) -> None:
    """Raise SettingError where a device cannot do what the settings want, before any work."""
    import torch

    # Older GPUs only emulate it, many times slower than float32.
    if (
        run.precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise SettingError("run.precision", "this GPU has no bfloat16", "bf16", 'set "fp32"')
    if run.precision == "fp64" and device.type == "mps":
        raise SettingError("run.precision", "this GPU has no float64", "fp64", 'set "fp32"')
    if run.compile == "on" and (lacks := lacks_compiler(device)):
        way_out = 'install one, or set "off"' if device.type in COMPILERS else 'set "off"'
        raise SettingError("run.compile", lacks, "on", way_out)


def lacks_compiler(device: "torch.device") -> str:
    """Return what a device lacks to have code compiled for it; empty where nothing."""
    if device.type not in COMPILERS:
        return f"is not there for {device.type}"
    wanted = os.environ.get("CXX" if device.type == "cpu" else "CC")
    names = [wanted] if wanted else COMPILERS[device.type]
    if not any(map(shutil.which, names)):
        return f"needs a compiler, {' or '.join(names)}, and there is none on PATH"
    if device.type == "cuda" and not find_spec("triton"):
        return "needs the package triton, and there is none"
    return ""


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it, others count them all
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def launcher_variable(name: str, default: int = 0) -> int:
    """Return a whole number that the launcher has put into the environment."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise SettingError(name, "must be a whole number, in the environment", text)
    return int(text)
