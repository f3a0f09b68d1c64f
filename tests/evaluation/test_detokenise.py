"""WikiText's spacing, undone by the rules that published figures were made with."""

import importlib

import pytest

from lengthen.evaluation.detokenise import detokenise
from tests.conftest import SHARED

RAW = SHARED / "wikitext2/wiki.test.raw"


@pytest.mark.parametrize(
    ("spaced", "written"),
    [
        ("a guest @-@ starring role", "a guest-starring role"),
        ("5 @,@ 000 people , 2 @.@ 5 of them", "5,000 people, 2.5 of them"),
        ("so : one ; two . Three ! Four ? Five", "so: one; two. Three! Four? Five"),
        ("the play ( 2001 ) and [ sic ] { x }", "the play (2001) and [sic] {x}"),
        ('as " Craig " in', 'as "Craig" in'),
        ("the actors ' own", "the actors' own"),
        ("Teddy 's Story", "Teddy's Story"),
        (" \n = Title = \n \n = = Part = = \n", "\n= Title =\n\n== Part ==\n"),
        ("= = = = Deep = = = =", "==== Deep ===="),
        ("at 5 ° C", "at 5°C"),
        ("took N days", "took 1 days"),
    ],
)
def test_each_rule_gives_text_as_people_write_it(spaced: str, written: str) -> None:
    assert detokenise(spaced) == written


def test_quotation_marks_pair_up_over_the_ends_of_lines() -> None:
    assert detokenise('one "\n two " three') == 'one "two" three'


@pytest.mark.skipif(not RAW.exists(), reason="needs the test text of WikiText")
def test_the_whole_test_text_becomes_what_lm_eval_makes_of_it() -> None:
    text = RAW.read_bytes().decode()
    theirs = importlib.import_module("lm_eval.tasks.wikitext.preprocess_wikitext")
    assert detokenise(text) == theirs.wikitext_detokenizer({"page": text})
