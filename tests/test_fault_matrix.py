"""Every fault has a test, a row that says what is promised, and a line when they are tried."""

from typing import get_args

import pytest

from lengthen.util.faults import Action, Site
from tests.fault_matrix import NUMBERS, PAGE, Tally, faults_with_tests, numbers_in
from tests.test_docs import names_in, rows_of, section

pytest_plugins = ["pytester"]


def test_no_fault_is_without_a_test() -> None:
    assert sorted(faults_with_tests()) == NUMBERS


def test_the_page_on_reliability_has_every_fault_and_its_promise() -> None:
    rows = [row for row in rows_of(PAGE.read_text(encoding="utf-8")) if row[0][:1] == "F"]
    assert [row[0] for row in rows] == NUMBERS
    assert all(len(row) == 3 and all(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("test_f01_a_kill", ["F01"]),
        ("test_f07_f08_a_file", ["F07", "F08"]),
        ("test_fourteen_f01_", []),
        ("test_a_f01_", []),
    ],
)
def test_the_numbers_stand_in_front_of_a_name(name: str, numbers: list[str]) -> None:
    assert numbers_in(name) == numbers


def test_a_fault_is_survived_where_all_its_tests_pass_and_each_says_what_became_of_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        def test_f01_f02_good(): pass
        def test_f02_bad(): assert 0
        @pytest.mark.parametrize("n", ["a.b", "c"])
        def test_f03_twice(n): pass
        @pytest.mark.skip
        def test_f04_not_here(): pass
        @pytest.fixture
        def broken(): raise OSError
        def test_f05_before_it_begins(broken): pass
        """
    )
    tally = Tally()
    pytester.inline_run("-p", "no:xdist", plugins=[tally])
    said = list(tally.lines({"F01": "kill -9"}))
    assert [line[:26] for line in said[:6]] == [
        "F01 survived     1 tests  ",
        "F02 lost         2 tests  ",
        "F03 survived     2 tests  ",
        "F04 skipped      1 tests  ",
        "F05 lost         1 tests  ",
        "F06 not tried    0 tests  ",
    ]
    assert said[0].endswith("kill -9")
    assert said[-1] == "56 faults, 2 survived, 2 lost, 1 skipped, 51 not tried"


def test_the_page_on_reliability_has_every_site_and_action() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = {
        name for row in rows_of(section(text, "## Cause a fault")) for name in names_in(row[0])
    }
    assert words == {*get_args(Site), *get_args(Action)}
