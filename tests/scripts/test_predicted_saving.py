"""The saving that is predicted by shape and full length, from FLOP and from a table of seconds."""

from pathlib import Path
from typing import Any

import pytest

from lengthen.experiments.compare.seconds import SecondsTable
from lengthen.model import cost
from scripts.gpu.install import ROOT
from scripts.predicted_saving import (
    LENGTHS,
    SHAPES,
    START,
    configuration,
    main,
    saved,
    schedules,
    table,
)

GPT2 = SHAPES["gpt2-117m"]


def device(model: dict[str, Any], seconds: dict[int, float]) -> SecondsTable:
    facts = {"format": 1, "device": "made", "model": model, "seconds_per_token": seconds}
    return SecondsTable.model_validate(facts)


def by_flops(model: dict[str, Any], longest: int) -> SecondsTable:
    """Return a device whose seconds are the causal FLOP."""
    shape = configuration(model, longest, {"kind": "constant"}).model
    lengths = [2**power for power in range(6, longest.bit_length())]
    each = {length: cost.flops(shape, 1, length, causal=True) / length for length in lengths}
    return device(model, each)


@pytest.mark.parametrize("full", LENGTHS)
@pytest.mark.parametrize("kind", schedules(0))
def test_on_a_device_whose_seconds_are_flop_seconds_and_flop_save_alike(
    kind: str, full: int
) -> None:
    config = configuration(GPT2, full, schedules(full)[kind])
    causal, _, seconds = saved(config, by_flops(GPT2, LENGTHS[-1]))
    assert causal == seconds


def test_the_saving_is_the_attentions_share_of_the_tokens_that_were_short() -> None:
    config = configuration(GPT2, 4096, schedules(4096)[str(START)])
    slower = device(GPT2, {START: 1.0, 4096: 2.0})
    assert list(saved(config, slower))[-1] == "40%"  # 80 % of the steps at half the seconds


def test_every_shape_has_a_row_for_each_length_and_no_seconds_unless_they_were_measured() -> None:
    rows = table({}).rows
    assert [row[:2] for row in rows] == [(name, str(n)) for name in SHAPES for n in LENGTHS]
    assert {(row[4], row[7]) for row in rows} == {("-", "-")}


def test_the_page_on_gpus_has_the_savings_of_gpt_2() -> None:
    page = " ".join((ROOT / "docs/gpu.md").read_text(encoding="utf-8").split()).replace(" %", "%")
    found = {row[1]: row for row in table({}).rows if row[0] == "gpt2-117m"}
    (doubling, short), (later, short_later) = (
        (found[full][2], found[full][5]) for full in ("4096", "32768")
    )
    assert f"doubling from 256 saves {doubling} at length 4,096 and {later} at 32,768" in page
    assert f"256 for 80% of the tokens saves {short} and {short_later}." in page


def test_seconds_count_for_their_own_model_and_no_further_than_they_go() -> None:
    found = table({"seconds.json": by_flops(GPT2, 16_384)})
    timed = [row[:2] for row in found.rows if row[4] != "-"]
    assert timed == [("gpt2-117m", str(length)) for length in (4096, 8192, 16_384)]
    assert "Seconds of gpt2-117m: made." in found.note


def test_a_table_of_another_model_adds_its_own_rows() -> None:
    model = {**GPT2, "layers": 9}
    found = table({"seconds.json": by_flops(model, 8192)})
    timed = [row[:2] for row in found.rows if row[4] != "-"]
    assert timed == [("seconds.json", "4096"), ("seconds.json", "8192")]


def test_a_file_that_is_no_table_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "seconds.json"
    file.write_text("{")
    said = main([str(file)])
    assert said is not None
    assert said.startswith("seconds: is no table of seconds")
    assert len(said.splitlines()) == 1
