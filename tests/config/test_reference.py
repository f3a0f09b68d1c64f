"""The reference of settings is made of their declarations: none is missing, none invented."""

import re
from dataclasses import fields

import pytest

from lengthen.cli.main import main
from lengthen.config.reference import explained, tables
from lengthen.config.schema import KINDS, Config
from lengthen.util.errors import SettingError


def declared() -> dict[str, list[str]]:
    names = {
        name: list(getattr(field.annotation, "model_fields", {}))
        for name, field in Config.model_fields.items()
        if name != "pacing"
    }
    for kind, pacing in KINDS.items():
        names[f'pacing.kind = "{kind}"'] = [f.name for f in fields(pacing) if f.name != "kind"]
    return names


def test_every_setting_that_is_declared_has_a_meaning_a_type_and_a_default() -> None:
    found = tables()
    assert {name: [s.name for s in settings] for name, (_, settings) in found.items()} == declared()
    assert all(s.meaning and s.type and s.default for _, part in found.values() for s in part)
    assert all(meaning for meaning, _ in found.values())


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("optimizer", ("betas", "list of shares", "", "[0.9, 0.95]")),
        ("optimizer", ("warmup_steps", "count or 0", "steps", "0")),
        ("model", ("vocabulary", "count", "tokens", "the store's")),
        ("batch", ("micro_tokens", 'count or "auto"', "tokens", '"auto"')),
        ("run", ("compile", '"auto" or "off" or "on"', "", '"auto"')),
        ("run", ("recompute", "true or false", "", "false")),
        ("data", ("path", "text", "", "not set")),
        ('pacing.kind = "linear"', ("duration", "count", "steps", "required")),
        ('pacing.kind = "staged"', ("values", "list of counts", "tokens or rows", "required")),
    ],
)
def test_type_unit_and_default_are_those_of_the_declaration(
    table: str, row: tuple[str, ...]
) -> None:
    assert row in [(s.name, s.type, s.unit, s.default) for s in tables()[table][1]]


def test_a_table_is_printed_with_all_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for table in Config.model_fields:
        assert main(["settings", table]) == 0
        printed = capsys.readouterr().out
        names = {n for one, names in declared().items() if one.startswith(table) for n in names}
        assert names <= set(re.findall(r"^(\w+) ", printed, re.MULTILINE))


def test_without_a_name_all_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for names in declared().values() for name in names)


def test_a_wrong_name_of_a_table_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"got 'optimiser'; did you mean 'optimizer'\?"):
        explained("optimiser")
