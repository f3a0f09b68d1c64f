"""Which settings a run may change where it goes on: resumed, or as a branch."""

import re
from dataclasses import replace

from lengthen.checkpoint.read import Checkpoint, State
from lengthen.config.load import (
    as_trained,
    build_recorded,
    differences,
    flat,
    nested,
    recorded,
    with_overrides,
)
from lengthen.config.schema import Config, Tables
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Adaptive, AdaptiveState, Pacing
from lengthen.core.schedule import Counters
from lengthen.util.errors import SettingError

# What a checkpoint was built on: another value would make it another run, or has no moments in it;
# another beta or half-life would correct moments by steps or tokens that they do not lack.
FIXED = re.compile(
    r"data\.store_id|model\..*|batch\.(leftovers|reuse_after)"
    r"|optimizer\.(kind|betas|beta2_half_life)|run\.(seed|branched_from|parent_tokens)"
)
# What decides which tokens come when: a branch where one of them is given begins a new ledger.
ORDER = {"model.length", "batch.leftovers", "batch.reuse_after", "run.seed"}
# What a branch may change, though not the middle of a run.
OPEN = ORDER | {f"model.{name}" for name in ("dropout", "positions_start", "rope_theta", "z_loss")}


def going_on(pacing: Pacing | Custom, counters: Counters, state: State) -> Counters:
    """Return the counters of a checkpoint's state, from which `pacing` goes on.

    Raises SettingError for a function in place of another one.
    """
    if isinstance(pacing, Custom) and "pacing_values" in state:
        pacing.check_record(state["pacing_values"], counters.step)
    if not isinstance(pacing, Adaptive):
        return counters
    before, trained_with = None, recorded(state)["pacing"]
    if trained_with["kind"] == "adaptive":
        before = counters.adaptive or AdaptiveState(trained_with["start"])
    now = pacing.resumed(before, counters.step)
    # A run that was never interrupted has no state before its first observation.
    return replace(counters, adaptive=None if now == pacing.begin() else now)


def local_overrides(config: Config, there: Config) -> Tables:
    """Return what this process may set anew in a run: what belongs to its machine."""
    asked, used = config.batch.micro_tokens, there.batch.micro_tokens
    overrides: Tables = {}
    if isinstance(config.pacing, Custom):
        overrides["pacing"] = config.pacing  # config.toml has the function's name alone
    if there.data.path != config.data.path:
        overrides["data"] = {"path": config.data.path}
    if (seconds := config.run.timeout_seconds) != there.run.timeout_seconds:
        overrides["run"] = {"timeout_seconds": seconds}
    # A run that ran out of memory continues in smaller micro-batches than were asked for.
    if asked != "auto" and used != "auto" and asked < used:
        overrides["batch"] = {"micro_tokens": asked}
    return overrides


def changed_settings(asked: Tables, config: Config, start: Checkpoint) -> Tables:
    """Return every setting that is not as the checkpoint was trained with, and a new store's path.

    More than what was asked for: an earlier resume may have died before its first save, its lines
    are set aside, and its settings stay. And less: a value as before is no change.
    """
    tables = recorded(start.state)
    if not tables:
        return asked
    # An older checkpoint lacks newer settings: it was trained with their defaults.
    before, now = (flat(as_trained(one)) for one in (build_recorded(tables), config))
    changed = {n: v for n, v in flat(asked).items() if n not in now and n not in before}
    names = sorted(now.keys() | before.keys())
    changed |= {n: now.get(n) for n in names if now.get(n) != before.get(n)}
    return nested(changed)


def check_same_settings(config: Config, there: Config) -> None:
    """Raise SettingError where `--resume auto` found a run of other settings."""
    # How a step is cut changes no result beyond rounding.
    own = {
        "batch": {"micro_tokens": config.batch.micro_tokens},
        "data": {"path": config.data.path},
        "run": {"timeout_seconds": config.run.timeout_seconds},
    }
    there = with_overrides(there, own)
    for name, (asked, before) in sorted(differences(config.tables(), there.tables()).items()):
        rule = f"--resume auto found a run with {before!r}"
        hint = "choose another --out"
        if not FIXED.fullmatch(name):
            hint += ", or give it to `lengthen resume` once"
        raise SettingError(name, rule, asked, hint)


def refuse_fixed(overrides: Tables) -> None:
    """Raise SettingError for what `resume` was asked to change and cannot."""
    for name, value in flat(overrides).items():
        if FIXED.fullmatch(name):
            rule = "cannot change in the middle of a run"
            raise SettingError(name, rule, value, "start a new run")


def check_branch(config: Config, old: Config) -> None:
    """Raise SettingError for a change from `old` that weights or moments do not allow."""
    for name, (asked, before) in sorted(differences(config.tables(), old.tables()).items()):
        if FIXED.fullmatch(name) and name not in OPEN | {"data.store_id"}:
            rule = f"cannot change in a branch; the run has {before!r}"
            raise SettingError(name, rule, asked, "start a new run")
    length, before = config.model.length, old.model.length
    if length < before:
        raise SettingError("model.length", f"must be at least the run's ({before})", length)
    if length > before and old.model.positions == "learned":
        rule = f'above {before} needs model.positions = "rope": learned positions end there'
        raise SettingError("model.length", rule, length)


def budget_error(config: Config, rule: str, budget: int, hint: str = "") -> SettingError:
    """Return the error for a budget, under the setting that gives it."""
    setting = "tokens" if config.budget.epochs is None else "epochs"
    return SettingError(f"budget.{setting}", rule, budget, hint)
