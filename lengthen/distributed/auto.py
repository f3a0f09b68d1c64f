"""What "auto" of `run.precision` and `run.compile` means: decided once, when a run first starts.

By device, settings and size of the run, never by a clock: the last digits depend on both, and may
not depend on how busy a machine was.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lengthen.config.load import with_auto_as
from lengthen.config.schema import Config, Run
from lengthen.data.store import Store
from lengthen.distributed.device import (
    device_here,
    lacks_compiler,
    launcher_variable,
    usable_cores,
)
from lengthen.model import cost

if TYPE_CHECKING:
    import torch

CPUINFO = Path("/proc/cpuinfo")
LEAST_CAPABILITY = 8, 0  # of a GPU of CUDA with matrix units for bfloat16 (Ampere)


# Where compiled code is faster, by kind of device, precision, and whether there are matrix units:
# FLOP/s of a core or a GPU without it, the share of the seconds that it saves, the seconds that it
# costs. Elsewhere it gains nothing: without such units 0.94 to 1.03 times (benchmarks.compiled).
GAINS = {
    ("cpu", "bf16", True): (1e11, 0.05, 60.0),
    ("cuda", "bf16", True): (1e14, 0.15, 60.0),
}


def decided(config: Config, store: Store | None = None) -> tuple[Config, list[str]]:
    """Return the configuration without an "auto" of these two, and a line for why each is so.

    `store` is that of the configuration, which a budget in epochs needs.
    """
    (config,), reasons = decided_alike([(config, store)])
    return config, reasons


def decided_alike(
    asked: Sequence[tuple[Config, Store | None]],
) -> tuple[list[Config], list[str]]:
    """Decide for several configurations at once, each with its store: one answer for every "auto".

    They are compiled where that earns its time back for each of them.
    """
    configs, reasons = list[Config](), dict[str, None]()
    for config, _ in asked:
        device = device_here(config.run.device)
        value, has = ("bf16", "has") if has_matrix_units(device) else ("fp32", "has no")
        if config.run.precision == "auto":
            why = f"this device {has} matrix units for bfloat16"
            reasons[f'run.precision = "auto" takes {value}: {why}'] = None
        configs.append(with_auto_as(config, Run.model_validate({"precision": value})))
    stores = (store for _, store in asked)
    both = [pair for pair in zip(configs, stores, strict=True) if pair[0].run.compile == "auto"]
    for value, why in sorted(_compile(*pair) for pair in both)[:1]:  # "off" before "on"
        reasons[f'run.compile = "auto" {"compiles" if value == "on" else "stays off"}: {why}'] = (
            None
        )
        as_decided = Run.model_validate({"compile": value})
        configs = [with_auto_as(config, as_decided) for config in configs]
    return configs, list(reasons)


def has_matrix_units(device: "torch.device") -> bool:
    """Return whether a device multiplies matrices of bfloat16 in units of their own."""
    import torch

    if device.type == "cpu":
        return CPUINFO.exists() and "amx_bf16" in CPUINFO.read_text(errors="replace").split()
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return False
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def _compile(config: Config, store: Store | None) -> tuple[str, str]:
    """Return whether to compile, and why."""
    device, run = device_here(config.run.device), config.run
    untried = "run.sharded is on" if run.sharded else ""
    if config.data.documents == "mask":
        untried = 'data.documents is "mask"'
    if cannot := untried or lacks_compiler(device):
        return "off", cannot
    gain = GAINS.get((device.type, run.precision, has_matrix_units(device)))
    if gain is None:
        return "off", f"compiled {run.precision} is not faster on this kind of device"
    speed, share, costs = gain
    seconds = _seconds(config, store, speed, device)
    saves = f"it saves about {share * seconds:,.0f} s of {seconds:,.0f}"
    if share * seconds < costs:
        return "off", f"{saves}, which is less than the {costs:.0f} that it costs"
    return "on", f"{saves}, and costs about {costs:.0f}"


def _seconds(config: Config, store: Store | None, speed: float, device: "torch.device") -> float:
    """Return about how long a run takes at `speed`, as if all of it were at full length."""
    if config.budget.minutes is not None:
        return 60 * config.budget.minutes
    if config.model.vocabulary is None:  # which whoever plans it will ask for
        return 0.0
    length = config.model.length
    budget = config.schedule(None if store is None else store.sequences(length)).budget
    each = cost.flops(config.model, 1, length, recompute=config.run.recompute) / length
    ranks = launcher_variable("WORLD_SIZE", 1)  # each with a GPU of its own; they share the cores
    return budget * each / (speed * (usable_cores() if device.type == "cpu" else ranks))
