"""What metrics say: times to a loss, ratios, unstable steps."""

from lengthen.analysis import best_loss, first_at_or_below, largest_ratio, unstable_steps
from lengthen.runlog import Record


def evaluation(step: int, loss: float | None) -> Record:
    return {"kind": "eval", "step": step, "tokens": 100 * step, "loss": loss}


EVALUATIONS = [evaluation(1, 6.0), evaluation(2, None), evaluation(3, 5.5), evaluation(4, 5.8)]


def test_a_loss_is_reached_at_the_first_evaluation_not_above_it() -> None:
    reached = first_at_or_below(EVALUATIONS, 5.9)
    assert reached is not None
    assert reached["tokens"] == 300
    assert first_at_or_below(EVALUATIONS, 5.4) is None


def test_the_best_loss_is_the_lowest_finite_one() -> None:
    assert best_loss(EVALUATIONS) == 5.5
    assert best_loss([evaluation(1, None)]) is None


def test_a_step_above_the_threshold_or_not_finite_is_unstable() -> None:
    steps: list[Record] = [
        {"step": 1, "loss_ratio": None},
        {"step": 2, "loss_ratio": 1.2},
        {"step": 3, "loss_ratio": 1.21},
        {"step": 4, "loss_ratio": None, "finite": False},
    ]
    assert [step["step"] for step in unstable_steps(steps)] == [3, 4]
    assert largest_ratio(steps) == 1.21
    assert largest_ratio(steps[:1]) is None
