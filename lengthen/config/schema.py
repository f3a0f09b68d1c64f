"""A complete configuration: frozen tables with their defaults, units and checks.

The pacing tables are pacing's own values. Where settings come from, and how a mistake reads, is in
load.py.
"""

from dataclasses import MISSING, fields
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    field_serializer,
    model_validator,
)

from lengthen.config.model import Model, Table
from lengthen.config.names import other_name
from lengthen.config.values import (
    MOST,
    Betas,
    Count,
    CountOrOff,
    Number,
    Trackers,
    known_device,
    parse_count,
    parse_list,
)
from lengthen.core.budget_share import BudgetShare
from lengthen.core.custom_pacing import Custom, settings_of
from lengthen.core.ledger import Leftovers
from lengthen.core.pacing import Pacing
from lengthen.core.schedule import Hold, RateByTokens, RateSchedule, Schedule, with_duration
from lengthen.core.settings import Doc
from lengthen.util.errors import SettingError, nearest

Documents = Literal["attend", "mask"]
Tables = dict[str, Any]  # settings as plain nested tables, before they are checked

# The tag of a pacing table -> its value.
KINDS: dict[str, type[Pacing]] = {kind.kind: kind for kind in get_args(Pacing)}
# Settings of a pacing with several numbers.
LISTS = {
    name
    for kind in KINDS.values()
    for name, hint in get_type_hints(kind).items()
    if get_origin(hint) is tuple
}


def read_pacing(table: object) -> object:
    """Turn a pacing table into pacing's own value; raises SettingError with a bare name."""
    if isinstance(table, (*get_args(Pacing), Custom)):
        return table
    if not isinstance(table, dict):
        raise ValueError(f"must be a table or a pacing, whose kind is {', '.join(KINDS)}")
    kind = KINDS.get(str(table.get("kind")))
    if table.get("kind") == Custom.kind:
        hint = 'give it in Python: settings={"pacing": Custom(function, end=...)}'
        raise SettingError("kind", "a settings file cannot hold a function", Custom.kind, hint)
    if kind is None:
        hint = nearest(str(table.get("kind", "")), KINDS)
        raise SettingError("kind", "no such pacing", table.get("kind"), hint)
    allowed = {field.name: field for field in fields(kind)}
    for name in table:
        if name not in allowed:
            hint = other_name(name) or nearest(name, allowed)
            raise SettingError(name, "no such setting", table[name], hint)
    for name, field in allowed.items():
        if name not in table and field.default is MISSING:
            raise SettingError(name, f"is missing; pacing.kind = {kind.kind!r} needs it")
    return kind(**{name: _pacing_value(name, value) for name, value in table.items()})


def _pacing_value(name: str, value: object) -> Any:
    if name in ("kind", "of"):
        return value
    if name == "duration" and isinstance(value, str) and "%" in value:
        return BudgetShare(value)
    try:
        if name in LISTS:
            return tuple(map(parse_count, parse_list(value)))
        return parse_count(value)
    except ValueError as error:
        raise SettingError(name, str(error), value) from None


class Data(Table):
    """The tokens, and which of a row read each other."""

    path: Annotated[str | None, Field(min_length=1), Doc("token store, as `--data` says")] = None
    store_id: Annotated[str | None, Doc("store that this run began with; `train` sets it")] = None
    documents: Annotated[Documents, Doc("of one row: attend to each other, or are masked")] = (
        "attend"
    )


class Batch(Table):
    """What one step reads, and how it is cut for the device."""

    rows: Annotated[Count, Field(le=2**24), Doc("B of a step at full length, over all processes")]
    micro_tokens: Annotated[
        Count | Literal["auto"],
        Doc("most in one forward pass of a process; auto: what fits", "tokens"),
    ] = "auto"
    hold: Annotated[Hold, Doc("what stays constant while the length is paced")] = "rows"
    leftovers: Annotated[
        Leftovers, Doc("rests of sequences: read later, dropped, or read in the same step as rows")
    ] = "requeue"
    reuse_after: Annotated[
        Count, Field(le=10**6), Doc("least wait before a leftover is read", "steps")
    ] = 64


class Optimizer(Table):
    """The rate rises over `warmup_steps`, then follows `schedule` in tokens."""

    kind: Annotated[
        Literal["adamw", "muon"], Doc("muon: for the layers' matrices, with AdamW for the rest")
    ] = "adamw"
    learning_rate: Annotated[Number, Field(gt=0, le=1e3), Doc("peak")]
    min_learning_rate: Annotated[
        Number, Doc("where the decay ends, at most the peak", default="a tenth of the peak")
    ] = Field(default_factory=lambda given: float(f"{given.get('learning_rate', 0) / 10:.6g}"))
    warmup_steps: Annotated[CountOrOff, Doc("W; 0: the peak from the first step on", "steps")] = 0
    schedule: Annotated[RateSchedule, Doc("how the rate decays, by trained tokens")] = "cosine"
    decay_tokens: Annotated[
        Count | None, Doc("at which the rate reaches its minimum", "trained tokens", "the budget")
    ] = None
    wsd_decay_tokens: Annotated[
        Count | None,
        Doc("of wsd's decay, which ends at those", "tokens", "a tenth of `decay_tokens`"),
    ] = None
    rate_by_tokens: Annotated[
        RateByTokens, Doc("sqrt: rate times sqrt(tokens of the step / of a full step)")
    ] = "none"
    betas: Annotated[Betas, Doc("decay of the first and second moment")] = (0.9, 0.95)
    beta2_half_life: Annotated[
        Count | None,
        Doc("of the second moment: beta2 = 2^(-step tokens / it)", "tokens", "betas[1]"),
    ] = None
    epsilon: Annotated[Number, Field(gt=0), Doc("of AdamW's denominator")] = 1e-8
    weight_decay: Annotated[Number, Doc("on matrices, not on biases, gains or positions")] = 0.1
    decay_positions: Annotated[bool, Doc("weight decay on the position table too")] = False
    clip: Annotated[Number, Doc("largest global gradient norm; 0: no clipping")] = 1.0

    @model_validator(mode="after")
    def _minimum_below_peak(self) -> "Optimizer":
        if self.min_learning_rate > self.learning_rate:
            rule = f"must be at most optimizer.learning_rate ({self.learning_rate})"
            raise SettingError("min_learning_rate", rule, self.min_learning_rate)
        return self


class Budget(Table):
    """When training ends; one of the three."""

    tokens: Annotated[Count | None, Doc("at least one step", "trained tokens")] = None
    epochs: Annotated[Number | None, Field(gt=0, le=1e6), Doc("over the whole store")] = None
    minutes: Annotated[
        Number | None,
        Field(gt=0, le=1e6),
        Doc("of training; steps timed at its start turn them into tokens", "minutes"),
    ] = None

    @model_validator(mode="after")
    def _one_of_three(self) -> "Budget":
        if [self.tokens, self.epochs, self.minutes].count(None) != 2:
            rule = "give budget.tokens, budget.epochs or budget.minutes, one of the three"
            raise SettingError("tokens", rule)
        return self


class Evaluation(Table):
    """Validation at full length, always at the end too, and the probe. 0 switches each off."""

    every_steps: Annotated[CountOrOff | None, Doc("between validations", "steps", "off")] = None
    every_tokens: Annotated[
        CountOrOff | None, Doc("between validations", "trained tokens", "off")
    ] = None
    tokens: Annotated[Count, Doc("of the validation part, if it has so many", "tokens")] = 100_000
    probe_every_steps: Annotated[CountOrOff, Doc("between probes", "steps")] = 10

    @model_validator(mode="after")
    def _one_of_two(self) -> "Evaluation":
        if self.every_steps and self.every_tokens:
            rule = "give evaluation.every_steps or evaluation.every_tokens, not both"
            raise SettingError("every_steps", rule, self.every_steps)
        return self


class Monitor(Table):
    """What is measured of stability besides each step's record; the training stays the same."""

    every_steps: Annotated[
        CountOrOff,
        Doc("between measurements of the largest logit and the updates; 0: none", "steps"),
    ] = 10
    layer: Annotated[CountOrOff, Doc("whose attention logits are measured, from 0")] = 0


class Saving(Table):
    """Checkpoints."""

    every_steps: Annotated[
        CountOrOff, Doc("between saves; 0: only at the end and when stopped", "steps")
    ] = 1000
    keep: Annotated[Count, Field(le=10**6), Doc("newest good ones to keep", "checkpoints")] = 2
    asynchronous: Annotated[bool, Doc("write from a copy while training continues")] = False


class Run(Table):
    """How a run is carried out."""

    seed: Annotated[CountOrOff, Field(lt=2**63), Doc("of weights, order of rows and dropout")] = 0
    branched_from: Annotated[str | None, Doc("run and checkpoint; `branch` sets it")] = None
    parent_tokens: Annotated[
        CountOrOff | None, Doc("trained before this ledger; `branch` sets it", "trained tokens")
    ] = None
    device: Annotated[
        str,
        BeforeValidator(known_device),
        Doc('"auto" (a GPU where there is one), "cpu", "cuda", "cuda:N" or "mps"'),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp64"],
        Doc("of forward and backward pass; auto: bf16 with matrix units, else fp32"),
    ] = "auto"
    compile: Annotated[
        Literal["auto", "off", "on"], Doc("`torch.compile`; auto: where it saves time in total")
    ] = "auto"
    recompute: Annotated[bool, Doc("layers in the backward pass: less memory, more time")] = False
    sharded: Annotated[bool, Doc("each process keeps a part of weights and moments")] = False
    on_nonfinite: Annotated[
        Literal["stop", "skip"], Doc("at a loss or gradient that is not finite")
    ] = "stop"
    trackers: Annotated[
        Trackers, Doc('dashboards written beside training: "tensorboard", "wandb"')
    ] = ()
    timeout_seconds: Annotated[
        Count, Field(le=10**6), Doc("that a process waits for another", "seconds")
    ] = 600


class Config(Table):
    """A complete configuration."""

    data: Data = Data()
    model: Model
    pacing: Annotated[Pacing | InstanceOf[Custom], BeforeValidator(read_pacing)]
    batch: Batch
    optimizer: Optimizer
    budget: Budget
    evaluation: Evaluation = Evaluation()
    monitor: Monitor = Monitor()
    saving: Saving = Saving()
    run: Run = Run()

    @field_serializer("pacing")
    def _pacing_table(self, pacing: Pacing | Custom) -> dict[str, object]:
        return settings_of(pacing)

    @model_validator(mode="after")
    def _tables_agree(self) -> "Config":
        schedule = self._schedule_of(self.budget.tokens or MOST)
        for setting, rule, value in schedule.mistakes():
            raise SettingError(setting, rule, value)
        if self.model.positions_start == "spread":
            hint = 'pacing.kind = "doubling" has no others from model.length / 2^k on'
            for _, rule, uneven in schedule.uneven_lengths('model.positions_start is "spread"'):
                raise SettingError("pacing", rule, uneven, hint)
        if self.monitor.layer >= self.model.layers:
            rule = f"must be below model.layers ({self.model.layers})"
            raise SettingError("monitor.layer", rule, self.monitor.layer)
        if self.optimizer.kind == "muon" and self.run.sharded:
            rule = "must be adamw where run.sharded is true: Muon needs whole matrices"
            raise SettingError("optimizer.kind", rule, "muon")
        length, micro_tokens = self.model.length, self.batch.micro_tokens
        if micro_tokens != "auto" and micro_tokens < length:
            rule = f"must be at least model.length ({length})"
            raise SettingError("batch.micro_tokens", rule, micro_tokens)
        if self.budget.epochs is not None and self.batch.leftovers == "drop":
            rule = 'cannot go with batch.leftovers = "drop"'
            raise SettingError("budget.epochs", rule, self.budget.epochs)
        return self

    def with_duration(self) -> "Config":
        """Return it with its pacing's duration in steps, where its budget is in tokens."""
        if self.budget.tokens is None:
            return self
        return self.model_copy(update={"pacing": self.schedule().pacing})

    def schedule(self, sequences: int | None = None) -> Schedule:
        """Return what decides every step; `sequences` is N, which `budget.epochs` needs.

        Raises SettingError where the budget is shorter than one step.
        """
        if self.budget.tokens is not None:
            return with_duration(self._schedule_of(self.budget.tokens))
        if self.budget.minutes is not None:
            rule = "is known in tokens only once `train` has tried steps; give budget.tokens"
            hint = "`lengthen plan` says how many"
            raise SettingError("budget.minutes", rule, self.budget.minutes, hint)
        if sequences is None or self.budget.epochs is None:
            raise SettingError("budget.epochs", "needs a token store; give --data", None)
        # As the number was written: 0.29 in binary times 100 is a little less than 29.
        tokens = int(Fraction(repr(self.budget.epochs)) * sequences * self.model.length)
        schedule = self._schedule_of(tokens)
        for setting, rule, value in schedule.mistakes():
            setting = setting.replace("budget.tokens", "budget.epochs")
            raise SettingError(setting, rule.replace("must be", "must give"), value)
        return with_duration(schedule)

    def _schedule_of(self, budget: int) -> Schedule:
        return Schedule(
            pacing=self.pacing,
            full_length=self.model.length,
            rows=self.batch.rows,
            hold=self.batch.hold,
            leftovers=self.batch.leftovers,
            budget=budget,
            learning_rate=self.optimizer.learning_rate,
            rate_by_tokens=self.optimizer.rate_by_tokens,
            min_learning_rate=self.optimizer.min_learning_rate,
            warmup_steps=self.optimizer.warmup_steps,
            decay_tokens=self.optimizer.decay_tokens or budget,
            rate_schedule=self.optimizer.schedule,
            wsd_decay_tokens=self.optimizer.wsd_decay_tokens,
        )

    def tables(self) -> Tables:
        """Return the settings as plain tables, without those that are absent."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Return the file that gives this very configuration again."""
        return tomli_w.dumps(self.tables())
