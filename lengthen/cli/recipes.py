"""`lengthen recipes`: the ready configurations, as a table or one of them as TOML."""

import argparse

from lengthen.cli.command import Command, Parser, Settings, start_computing


def _arguments(parser: Parser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="print this one as TOML")


def _run(options: argparse.Namespace, _: Settings) -> int:
    import tomli_w

    from lengthen.config.load import with_recipe
    from lengthen.util.tables import show

    if options.recipe is not None:
        text = tomli_w.dumps(with_recipe({"recipe": options.recipe}))
        print(f"# {options.recipe}; `lengthen settings TABLE` explains all\n\n{text.rstrip()}")
        return 0
    start_computing(options)
    from lengthen.planning.recipes import recipes

    show([recipes()])
    return 0


COMMAND = Command(
    "Show the recipes, or print one as TOML, to copy and edit.",
    """
  lengthen recipes
  lengthen recipes laptop-10min > my.toml
""",
    _arguments,
    _run,
)
