"""A table on a screen of any width, and in a pipe: nothing is cut, nothing is broken in a word."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lengthen.util.tables import (
    Table,
    as_text,
    between,
    counted,
    facts,
    laid_out,
    number,
    text_lines,
)

WORD = st.text("abcxyz019.,-=±%/", min_size=1, max_size=30)
CELLS = st.lists(WORD, min_size=1, max_size=5).map(" ".join)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    count = draw(st.integers(1, 8))
    rows = draw(st.lists(st.tuples(*[CELLS] * count), max_size=6))
    columns = draw(st.tuples(*[CELLS] * count))
    return Table(draw(CELLS), columns, tuple(rows), draw(CELLS))


def squeezed(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


@given(table=tables(), width=st.integers(20, 140))
def test_every_cell_is_whole_and_no_line_is_wider_than_the_screen(table: Table, width: int) -> None:
    lines = laid_out(table, width)
    shown = squeezed(lines)
    assert all(cell in shown for row in table.rows for cell in row)
    assert table.title in shown
    assert table.note in shown
    assert all(word in shown for name in table.columns for word in name.split() if table.rows)
    # Only a word that is longer than the screen is wide stands out, alone.
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


@given(table=tables())
def test_in_a_pipe_a_row_is_one_line_that_two_spaces_divide_into_its_cells(table: Table) -> None:
    lines = laid_out(table, None)
    _, names, _, *rows = lines[:-2]  # a title and a rule, a blank line and a note
    for line, row in zip([names, *rows], [table.columns, *table.rows], strict=True):
        assert tuple(re.split(r" {2,}", line.strip())) == row


FIGURES = Table(
    "Losses",
    ("variant", "validation loss", "95 % interval", "seeds"),
    (("baseline", "5.972", "5.957 to 5.987", "3 of 3"), ("slw", "5.5", "-", "3 of 3")),
    "In nats.",
)


def test_columns_that_fit_stand_side_by_side_and_figures_end_below_each_other() -> None:
    assert laid_out(FIGURES, 60) == [
        "Losses",
        "variant   validation   95 % interval   seeds",
        "                loss",
        "--------  ----------  --------------  ------",
        "baseline       5.972  5.957 to 5.987  3 of 3",
        "slw              5.5               -  3 of 3",
        "",
        "In nats.",
    ]


def test_columns_that_do_not_fit_go_below_beside_the_names_of_the_rows() -> None:
    five = replace(FIGURES, title="", rows=tuple((n, *FIGURES.rows[0][1:]) for n in "abcde"))
    assert laid_out(five, 40)[:11] == [
        "variant  validation   95 % interval",
        "               loss",
        "-------  ----------  --------------",
        *(f"{n}             5.972  5.957 to 5.987" for n in "abcde"),
        "",
        "variant   seeds",
        "-------  ------",
    ]


def test_where_that_would_be_longer_each_cell_is_a_line() -> None:
    one = Table("", ("trial", "rate", "verdict"), (("start 8, T 16, beginning", "0.01", "calm"),))
    assert laid_out(one, 24) == [
        "trial: start 8, T 16,",
        "    beginning",
        "  rate: 0.01",
        "  verdict: calm",
    ]


def test_a_long_text_beside_a_name_continues_below_itself() -> None:
    long = facts([("steps", "10"), ("full length", "from step 5 on, after 100 tokens (3 %)")])
    assert laid_out(long, 40) == [
        "steps        10",
        "full length  from step 5 on, after 100",
        "             tokens (3 %)",
    ]


def test_a_figure_that_rounds_to_nothing_has_no_sign() -> None:
    assert (number(-0.0004), number(-0.0006)) == ("0.000", "-0.001")
    assert between(-0.0004, 0.2) == "0.000 to 0.200"


def test_sentences_break_between_words_and_commands_stay_whole() -> None:
    sentence, command = "one two three four five", "next  lengthen train tuned.toml --out RUN"
    assert list(text_lines([sentence, command], 12)) == [
        "one two",
        "  three four",
        "  five",
        command,
    ]
    assert as_text([sentence]) == sentence


def test_a_table_with_a_title_stands_apart() -> None:
    parts: list[Table | str] = [
        "before",
        Table("A", ("n",), (("1",),)),
        facts([("a", "b")]),
        "after",
    ]
    assert as_text(parts) == "before\n\nA\nn\n-\n1\n\na  b\nafter"


def test_one_thing_is_no_several() -> None:
    said = [counted(n, "empty document") for n in (0, 1, 1234)]
    assert [counted(n, "second") for n in (0.6, 1.4, 1.6)] == ["1 second", "1 second", "2 seconds"]
    assert said == ["0 empty documents", "1 empty document", "1,234 empty documents"]


@given(width=st.integers(12, 100))
def test_a_command_in_a_sentence_stays_whole(width: int) -> None:
    said = "lengthen: stopped, and saved; `lengthen resume runs/first` continues"
    got = list(text_lines([said], width))
    assert squeezed(got) == said
    assert any("`lengthen resume runs/first`" in line for line in got)
    assert all(len(line) <= max(width, 30) for line in got)
