"""What "auto" of `run.precision` and `run.compile` means: decided once, when a run first starts.

By the device, the settings and the size of the run, never by a clock: last digits depend on both,
and two runs of one configuration may not differ by how busy their machine was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
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

LEAST_CAPABILITY = 8, 0  # of a GPU of CUDA with matrix units for bfloat16 (Ampere)


@dataclass(frozen=True)
class Gain:
    """What compiled code is reckoned to bring on one kind of device and precision."""

    speed: float  # FLOP/s of a training that is not compiled, of a core or a GPU
    share: float  # of its seconds that compiled code saves
    seconds: float  # to compile the graphs of a run


# Where there is none, compiled code is not faster (benchmarks.compiled).
GAINS = {
    ("cpu", "bf16 in matrix units"): Gain(1e11, 0.05, 60.0),
    ("cuda", "bf16"): Gain(1e14, 0.15, 60.0),
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
    configs, reasons = [config for config, _ in asked], dict[str, None]()
    for number, config in enumerate(configs):
        if config.run.precision == "auto":
            value, why = _precision(device_here(config.run.device))
            configs[number] = with_overrides(config, {"run": {"precision": value}})
            reasons[f'run.precision = "auto" takes {value}: {why}'] = None
    open_ones = [n for n, config in enumerate(configs) if config.run.compile == "auto"]
    answers = [_compile(configs[n], asked[n][1]) for n in open_ones]
    for value, why in sorted(answers)[:1]:  # "off" before "on"
        reasons[f'run.compile = "auto" {"compiles" if value == "on" else "stays off"}: {why}'] = (
            None
        )
        for n in open_ones:
            configs[n] = with_overrides(configs[n], {"run": {"compile": value}})
    return configs, list(reasons)


def _precision(device: "torch.device") -> tuple[str, str]:
    """Return the fastest precision whose results are as good, and why."""
    if has_matrix_units(device):
        return "bf16", f"this {_kind(device)} has matrix units for bfloat16"
    return "fp32", f"this {_kind(device)} has no matrix units for bfloat16"


def _kind(device: "torch.device") -> str:
    return "processor" if device.type == "cpu" else "GPU"


def has_matrix_units(device: "torch.device") -> bool:
    """Return whether a device multiplies matrices of bfloat16 in units of their own."""
    import torch

    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return False
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def _compile(config: Config, store: Store | None) -> tuple[str, str]:
    """Return whether to compile, and why."""
    device = device_here(config.run.device)
    if cannot := _cannot(config) or lacks_compiler(device):
        return "off", cannot
    units = " in matrix units" * (device.type == "cpu" and has_matrix_units(device))
    gain = GAINS.get((device.type, f"{config.run.precision}{units}"))
    if gain is None:
        return "off", f"compiled {config.run.precision} is not faster on this {_kind(device)}"
    seconds = _seconds(config, store, gain.speed, device)
    saved = f"about {gain.share * seconds:,.0f} s of {seconds:,.0f}"
    if gain.share * seconds < gain.seconds:
        return "off", f"it saves {saved}, which is less than the {gain.seconds:.0f} that it costs"
    return "on", f"it saves {saved}, and costs about {gain.seconds:.0f}"


def _cannot(config: Config) -> str:
    """Return what of the settings has not been tried compiled; empty where nothing."""
    if config.run.sharded:
        return "run.sharded is on"
    return 'data.documents is "mask"' * (config.data.documents == "mask")


def _seconds(config: Config, store: Store | None, speed: float, device: "torch.device") -> float:
    """Return about how long a run takes at `speed`, as if all of it were at full length."""
    if config.budget.minutes is not None:
        return 60 * config.budget.minutes
    length = config.model.length
    budget = config.schedule(None if store is None else store.sequences(length)).budget
    each = cost.flops(config.model, 1, length, recompute=config.run.recompute) / length
    units = usable_cores() if device.type == "cpu" else launcher_variable("WORLD_SIZE", 1)
    return budget * each / (speed * units)
