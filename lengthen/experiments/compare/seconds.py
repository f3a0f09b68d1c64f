"""A committed table of seconds a token by length -> the seconds of a run's steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.core.schedule import spans
from lengthen.data.tokenizer_files import first_problem
from lengthen.util.errors import SettingError, one_line

# Settings of a model that change no matrix product and no attention, or are the step's.
NO_SECONDS = {"length", "init_std", "positions_start", "rope_theta", "norm_eps", "z_loss"}
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SecondsTable(BaseModel):
    """Seconds a token by the length of its step, measured on one machine for one model."""

    format: Literal[1]
    machine: str = Field(validation_alias=AliasChoices("device", "processor"))
    model: dict[str, Any]
    seconds_per_token: Annotated[dict[int, Seconds], Field(min_length=1)]

    def of_step(self, rows: int, length: int) -> float:
        """Return a step's seconds, linear between lengths; raises SettingError outside of them."""
        lengths = sorted(self.seconds_per_token)
        if not lengths[0] <= length <= lengths[-1]:
            raise SettingError("seconds", f"has lengths {lengths[0]} to {lengths[-1]} only", length)
        each = [self.seconds_per_token[one] for one in lengths]
        return rows * length * float(np.interp(length, lengths, each))

    def of_run(self, config: Config) -> float:
        """Return the seconds of all steps; raises SettingError for another model or length."""
        self.must_fit(config)
        if config.budget.tokens is None:
            raise SettingError("budget.tokens", "is missing; equal seconds need it")
        steps = spans(config.schedule())
        return sum(span.steps * self.of_step(span.rows, span.length) for span in steps)

    def must_fit(self, config: Config) -> None:
        """Raise SettingError for a model that is not the one measured."""
        measured = shape_of(self.model)
        for name, value in shape_of(config.model.model_dump()).items():
            if value != measured[name]:
                rule = f"is {measured[name]!r} in the table of seconds"
                raise SettingError(f"model.{name}", rule, value)


def shape_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a token's seconds of a model's settings: defaults for those not there."""
    fields = {n: one for n, one in Model.model_fields.items() if n not in NO_SECONDS}
    defaults = {n: None if one.is_required() else one.default for n, one in fields.items()}
    return {name: model.get(name, default) for name, default in defaults.items()}


def read_seconds(path: object) -> SecondsTable:
    """Read a table of seconds; raises SettingError for a file that is none."""
    try:
        return SecondsTable.model_validate_json(Path(str(path)).read_bytes())
    except (OSError, ValueError) as error:
        rule = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise SettingError("seconds", f"is no table of seconds ({one_line(rule)})", path) from None
