"""What ranks store and send: predicted from shapes, compared with what two real ones measure."""

from pathlib import Path

import pytest

from benchmarks.scale import PEAK, SHAPES, configuration, measured, predicted
from lengthen.cli.main import main
from lengthen.config.load import with_overrides
from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.distributed.per_rank import RankLoad, load
from lengthen.model import cost
from lengthen.model.gpt import GPT

P = cost.parameters(configuration("DEEP").model)


def loads(config: Config, world_size: int, micro_tokens: int = 128) -> tuple[RankLoad, RankLoad]:
    """Replicated and sharded."""
    one, two = (load(config, micro_tokens, world_size, sharded=how) for how in (False, True))
    return one, two


def test_replicated_ranks_keep_everything_and_send_a_rings_all_reduce() -> None:
    for world_size in (2, 8, 64):
        replicated, _ = loads(configuration("DEEP"), world_size)
        assert replicated.state + replicated.accumulated == 16 * P
        assert replicated.sent == pytest.approx(8 * P * (world_size - 1) / world_size, rel=1e-6)


def test_sharded_ranks_keep_their_part() -> None:
    # Widths, vocabulary and length are multiples of 64: nothing is padded.
    for world_size in (2, 8, 64):
        assert loads(configuration("DEEP"), world_size)[1].state == 12 * P // world_size


def test_each_micro_batch_gathers_again_and_gradients_travel_once() -> None:
    gpt = GPT(Model(**SHAPES["DEEP"]))
    layers = sum(p.numel() for p in gpt.blocks.parameters())
    for micro_tokens, micro_batches in ((1024, 1), (256, 2), (128, 4)):
        _, sharded = loads(configuration("DEEP"), 2, micro_tokens)
        assert sharded.gather_sent == 2 * micro_batches * (P + layers)
        assert sharded.reduce_sent == 2 * P
        assert sharded.accumulated == (4 * P if micro_batches > 1 else 0)


def test_what_shards_pad_is_stored_and_sent() -> None:
    config = with_overrides(configuration("DEEP"), {"model": {"width": 36, "heads": 4}})
    config = with_overrides(config, {"batch": {"rows": 32}})
    few, many = loads(config, 4)[1], loads(config, 32)[1]
    assert few.state == 12 * cost.parameters(config.model) // 4  # 36, 1024, 128: all multiples of 4
    assert many.state > 1.1 * 12 * cost.parameters(config.model) / 32


def test_double_precision_doubles_and_recomputing_saves_activations() -> None:
    single = loads(configuration("DEEP"), 4)
    double = loads(configuration("DEEP", precision="fp64"), 4)
    again = loads(configuration("DEEP", recompute=True), 4)
    for one, two, saved in zip(single, double, again, strict=True):
        assert (two.peak, two.sent) == (2 * one.peak, 2 * one.sent)
        assert saved.activations < one.activations
        assert (saved.state, saved.sent) == (one.state, one.sent)


def test_plan_has_a_row_for_every_number_of_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "gpt2-1.5b", "--flops", "100T", "--batch.micro_tokens", "2048"]
    assert main([*words, "--ranks", "8,512"]) == 0
    printed = capsys.readouterr().out
    assert "gpt2-1.5b: load of a rank" in printed
    assert [line.split()[:2] for line in printed.splitlines() if "sharded" in line] == [
        ["8", "sharded"],
        ["512", "sharded"],
    ]


@pytest.mark.parametrize("ranks", ["eight", "1", "8,", "8,-2"])
def test_ranks_that_are_none_are_refused(ranks: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "gpt2-1.5b", "--flops", "100T", f"--ranks={ranks}"]) == 2
    assert "--ranks: must be whole numbers" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.skipif(not PEAK.exists(), reason="reads memory and bytes where Linux keeps them")
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_two_real_ranks_hold_and_send_what_is_predicted(
    name: str, sharded: bool, tmp_path: Path
) -> None:
    config = configuration(name, sharded=sharded)
    real, planned = measured(config, tmp_path / "run"), predicted(config)
    for what in ("peak", "sent"):
        assert planned[what] == pytest.approx(real[what], rel=0.1)
