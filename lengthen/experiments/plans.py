"""Plan recipes side by side: what training them will cost."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lengthen.config.load import Source, load, nested, with_data
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed import per_rank
from lengthen.distributed.auto import decided_alike
from lengthen.experiments.compare.file import variants_in
from lengthen.planning.forecast import (
    NOTE,
    Forecast,
    check_out,
    forecasts,
    in_units,
    lines,
    table,
    write,
)
from lengthen.util import console
from lengthen.util.disk import as_path
from lengthen.util.errors import SettingError
from lengthen.util.tables import Printable, Table, facts

MOST_RANKS = 10**6  # more than there are anywhere


@dataclass(frozen=True, repr=False)
class Plans(Printable):
    """What training will cost; its text is what `lengthen plan` prints."""

    forecasts: tuple[Forecast, ...]  # by recipe; of an adaptive pacing the quickest and slowest
    ranks: tuple[int, ...]  # numbers of GPUs whose loads are shown
    compared: bool = False  # they are variants of a comparison

    @property
    def parts(self) -> list[Table | str]:
        """A forecast as lines, several or variants as a table, and a table of loads for each."""
        one = len(self.forecasts) == 1
        first = facts(lines(self.forecasts[0])) if one else table(self.forecasts)
        if self.compared:
            first = _variants_table(self.forecasts)
        loads = [
            per_rank.table(one.name, one.config, one.plan.micro_tokens, list(self.ranks))
            for one in self.forecasts
        ]
        return [first, *loads] if self.ranks else [first]


def _variants_table(forecasts: Sequence[Forecast]) -> Table:
    """Return what the variants of a comparison will cost, a row each."""
    rows = [
        (
            one.name,
            f"{one.plan.steps:,}",
            f"{one.plan.tokens:,}",
            f"{one.plan.flops:.3g}",
            f"{one.saving.causal:z.1%}",
            f"{one.saving.full:z.1%}",
            in_units(one.duration),
            f"{one.time_saved:z.1%}",
        )
        for one in forecasts
    ]
    saved = ("FLOP saved, causal", "FLOP saved", "time", "time saved")
    columns = ("variant", "steps", "tokens", "FLOP", *saved)
    note = f"{NOTE} Saved is what full length throughout would cost more, on as many tokens."
    return Table("One run of each variant", columns, tuple(rows), note)


def plan(
    *recipes: Source,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    flops: str | float | None = None,
    ranks: Sequence[int] = (),
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Plans:
    """Return what training recipes will cost, side by side; train nothing.

    `recipes`, `data` and `settings` are as for `train`; without `data`, leftovers and epochs are
    left out. A comparison file stands for its variants. `flops` is the assumed speed, such as
    "100T" a second; without it steps are timed here, for some seconds. `ranks` are numbers of GPUs
    for which memory and traffic are shown. `out` is a picture or a page to write.
    Raises SettingError, and DataError for an unusable store.

    >>> plans = lengthen.plan("laptop-2min", data="store", flops="0.1T", quiet=True)
    >>> plans.forecasts[0].plan.tokens
    1499904
    >>> print(plans)
    steps ...
    """
    if not recipes:
        raise SettingError("recipes", "must be at least one recipe or settings file")
    if not all(isinstance(number, int) and 2 <= number <= MOST_RANKS for number in ranks):
        raise SettingError("--ranks", f"must be whole numbers from 2 to {MOST_RANKS}", ranks)
    path = None if out is None else as_path("out", out)
    if path is not None:
        check_out(path)
    say = (lambda _: None) if quiet else console.note
    configs, compared = dict[str, Config](), False
    for name, recipe in zip(_names(recipes), recipes, strict=True):
        if variants := variants_in(recipe, with_data(nested(settings), data)):
            # Of two files with a variant of one name both are shown, and a recipe of that name.
            own = {f"{name}: {one}" if one in configs else one: of for one, of in variants.items()}
            compared, notes = True, list[str]()
        else:
            config, notes = load(recipe, settings, data=data)
            own = {f"{name}: {name}" if compared and name in configs else name: config}
        alike, reasons = _decided(own)
        configs |= alike
        of = f"{name}: " if len(recipes) > 1 else ""
        for text in (*notes, *(of + reason for reason in reasons)):
            say(text)
    plans = Plans(
        tuple(forecasts(configs, None if flops is None else str(flops), say)),
        tuple(ranks),
        compared,
    )
    if path is not None:
        write(path, plans.forecasts)
    return plans


def _decided(configs: Mapping[str, Config]) -> tuple[dict[str, Config], list[str]]:
    """Return a recipe, or the variants of a comparison, as `train` decides on them, and why."""
    stores = [None if one.data.path is None else open_store(one) for one in configs.values()]
    ours = zip(configs.values(), stores, strict=True)
    alike, reasons = decided_alike([(with_store(one, s) if s else one, s) for one, s in ours])
    return dict(zip(configs, alike, strict=True)), reasons


def _names(recipes: Sequence[Source]) -> list[str]:
    """Return a short name for each: a file's own, or its path where two have that name."""
    given = [
        f"recipe {number}" if isinstance(one, Config) else str(one)
        for number, one in enumerate(recipes, start=1)
    ]
    short = [name.removesuffix(".toml").rpartition("/")[2] for name in given]
    return [
        one if short.count(one) == 1 else whole for one, whole in zip(short, given, strict=True)
    ]
