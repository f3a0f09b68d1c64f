"""A message is one line, whatever names and values are in it."""

import pytest

from lengthen.util.errors import MESSAGE, NAME, DataError, SettingError, StoppedError, printable


@pytest.mark.parametrize("odd", ["\n", "\x1b[31m", "\u202e", "\x00", "\ud800", "\u2028"])
def test_f49_no_name_or_value_breaks_the_line_or_steers_the_terminal(odd: str) -> None:
    for error in (
        SettingError(f"run.{odd}", "no such setting", odd, f"did you mean {odd}?"),
        DataError(f"file {odd}: cannot be used"),
        StoppedError(15, f"stopped in {odd}"),
    ):
        assert str(error).isprintable()
        str(error).encode()


def test_a_name_that_a_file_makes_up_does_not_bury_what_is_said() -> None:
    message = str(SettingError("run." + "x" * 10**6, "no such setting", "y" * 10**6))
    assert len(message) < 3 * NAME
    assert "no such setting" in message
    assert len(str(DataError("z" * 10**6))) <= MESSAGE + 3


def test_text_of_any_language_stays_as_it_is() -> None:
    assert printable("Größe 大 — ok") == "Größe 大 — ok"
