"""The recipes side by side: what each trains, and how long that would take on this machine."""

from lengthen.config.load import load
from lengthen.config.recipes import RECIPES
from lengthen.distributed.auto import decided
from lengthen.planning.forecast import in_units
from lengthen.planning.plan import plan
from lengthen.training.calibrate import UTILISATION, product_speed
from lengthen.util.tables import Table

VOCABULARY = 8192  # of a store as `prepare` makes it, for the recipes that leave it to the store
NOTE = (
    "Each has a twin NAME-baseline that trains at full length throughout. Parameters are with "
    f"{VOCABULARY:,} tokens where the store decides the vocabulary. Times are those at "
    f"{UTILISATION:.0%} of the speed of matrix products, measured here for half a second; a small "
    "model reaches less. `lengthen plan RECIPE --data STORE` tries steps, `lengthen recipes "
    "RECIPE` prints TOML."
)


def recipes() -> Table:
    """Return the recipes as a table, a row each; measures this machine for half a second."""
    configs = {}
    for name in (one for one in RECIPES if not one.endswith("-baseline")):
        vocabulary = RECIPES[name]()["model"].get("vocabulary", VOCABULARY)
        configs[name] = load(name, {"model.vocabulary": vocabulary})[0]
    speed = product_speed(decided(configs["laptop-2min"])[0])
    rows = []
    for name, config in configs.items():
        model, planned = config.model, plan(config, config.model.length)
        shape = (model.layers, model.width, model.heads, model.length)
        seconds = planned.flops / speed.flops_per_second
        sizes = map(_short, (planned.parameters, planned.tokens))
        rows.append((name, *map(str, shape), *sizes, in_units(seconds)))
    columns = ("recipe", "layers", "width", "heads", "length", "parameters", "tokens", "time")
    return Table("Recipes", columns, tuple(rows), NOTE)


def _short(value: float) -> str:
    """Return three digits with K, M, B or T behind them."""
    for suffix in ("", "K", "M", "B"):
        if value < 999.5:
            return f"{value:.3g}{suffix}"
        value /= 1000
    return f"{value:.3g}T"
