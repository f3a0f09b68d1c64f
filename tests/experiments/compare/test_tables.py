"""Tables and verdicts of real runs, and of planted ones: they say what happened, and no more."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.config.load import with_overrides
from lengthen.experiments.compare.file import Comparison, Planned, read_comparison
from lengthen.experiments.compare.outcomes import Group, groups, read_outcomes
from lengthen.experiments.compare.sweep import sweep_panels, sweep_tables
from lengthen.experiments.compare.tables import (
    instability,
    measuring,
    pair_verdicts,
    peaks,
    results,
    verdict_lines,
    verdict_table,
)
from lengthen.run.attempts import ATTEMPTS
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import train
from lengthen.util.errors import DataError
from tests.conftest import AskFor
from tests.experiments.conftest import Written, status_of
from tests.logs import observation

SWEEP = """
[[grid]]
optimizer.learning_rate = [1e-3, 3e-3, 1e-2, 3e-2]
optimizer.min_learning_rate = [1e-4, 1e-4, 1e-4, 1e-4]
"""


def members(comparison: Comparison, root: Path) -> list[Group]:
    return groups(comparison, read_outcomes(comparison, root)[0])


def plant(
    root: Path,
    run: Planned,
    losses: Sequence[float],
    *,
    probe: float = 0.99,
    end: str = "finished",
    environment: Mapping[str, object] | None = None,
    store_id: str | None = None,
) -> None:
    """Write a run whose evaluations, one a step of 1,000 tokens and 10 seconds, are given."""
    paths = RunPaths(run.directory(root))
    paths.root.mkdir(parents=True)
    paths.config.write_text(with_overrides(run.config, {"data": {"store_id": store_id}}).to_toml())
    paths.environment.write_text(json.dumps(environment or {}))
    lines: list[dict[str, object]] = []
    for number, loss in enumerate(losses, 1):
        at = {"step": number, "tokens": 1000 * number, "seconds": 10.0 * number}
        lines.append({"kind": "step", **at, "loss": loss, "loss_ratio": 0.99})
        lines.append({"kind": "probe", **at, "loss": loss, "loss_ratio": probe})
        lines.append({"kind": "eval", **at, "loss": loss, "perplexity": 2.0})
    lines.append({"kind": "event", "event": end, "step": len(losses), "in_a_row": 1})
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def column(table_rows: Sequence[Sequence[str]], number: int) -> list[str]:
    return [row[number] for row in table_rows]


def test_every_run_counts_once_with_its_own_last_loss(trained: tuple[Comparison, Path]) -> None:
    comparison, root = trained
    found = members(comparison, root)
    assert [group.variant for group in found] == ["baseline", "slw"]
    for group in found:
        assert [outcome.run.seed for outcome in group.outcomes] == [0, 1, 2]
        for outcome in group.outcomes:
            log = RunPaths(outcome.run.directory(root)).metrics.read_text().splitlines()
            last = [json.loads(line) for line in log if '"kind":"eval"' in line][-1]
            assert outcome.loss == last["loss"]
    table = results(found, "baseline")
    assert column(table.rows, 1) == ["3 of 3", "3 of 3"]
    assert column(table.rows, 8)[0] == "1.00"


def test_both_ratios_stand_in_the_tables(trained: tuple[Comparison, Path]) -> None:
    found = members(*trained)
    for table in (results(found, "baseline"), instability(found)):
        named = " ".join(table.columns)
        assert "steps" in named
        assert "probe" in named
    assert [int(cell.replace(",", "")) > 0 for cell in column(measuring(found).rows, 1)] == [
        True
    ] * 2


def test_observations_of_an_adaptive_pacing_are_counted_apart_where_there_are_any(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        plant(tmp_path, run, [6.0])
    assert measuring(members(comparison, tmp_path)).columns[-1] == "evaluation seconds"
    for run in comparison.runs[:1]:
        log = RunPaths(run.directory(tmp_path)).metrics
        look = {**observation(1, 8, 16, 5.0), "side_tokens": 256, "side_seconds": 0.5}
        log.write_text(json.dumps(look) + "\n" + log.read_text())
    table = measuring(members(comparison, tmp_path))
    assert table.columns[-2:] == ("observation tokens", "observation seconds")
    assert [row[-2:] for row in table.rows] == [("256", "0.5"), ("0", "0.0")]


def test_what_a_log_does_not_say_of_measuring_is_not_nothing(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        plant(tmp_path, run, [6.0])
    assert {row[1:] for row in measuring(members(comparison, tmp_path)).rows} == {("-",) * 4}


def test_one_recipe_under_two_names_cannot_be_told_apart(
    trained: tuple[Comparison, Path], written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    noise = {0: 5.00, 1: 5.06, 2: 4.97}
    for run in comparison.runs:
        other = 0.01 if run.variant == "slw" and run.seed != 1 else 0.0
        plant(tmp_path, run, [6.0, noise[run.seed] + other])
    (line,) = verdict_lines(pair_verdicts(members(comparison, tmp_path), comparison))
    assert "not distinguishable" in line


def test_one_that_is_5_percent_better_is_called_better_and_faster(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        base = 5.0 + 0.02 * run.seed
        better = run.variant == "slw"
        losses = [6.0, base * 0.97, base * 0.95] if better else [6.0, base * 1.02, base]
        plant(tmp_path, run, losses)
    found = members(comparison, tmp_path)
    (line,) = verdict_lines(pair_verdicts(found, comparison))
    assert line.startswith("baseline is worse than slw by 0.251 nats")
    rows = results(found, "baseline").rows
    assert column(rows, 8) == ["1.00", "1.50"]
    assert column(rows, 9) == ["not measured"] * 2


def test_a_run_that_skipped_its_last_step_has_the_loss_at_its_end(
    written: Written, tmp_path: Path, ask_for: AskFor, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = read_comparison(written(), {"run": {"on_nonfinite": "skip"}})
    run = comparison.runs[0]
    place = run.directory(tmp_path)
    ask_for(f"step:{6000 // 512 + 1}:nan")  # the last of them
    train(run.config, place, quiet=True)
    metrics = read_metrics(RunPaths(place).metrics)
    assert metrics.steps[-1].finite is False
    assert status_of(tmp_path, run).state == "finished"
    (outcome,), _ = read_outcomes(comparison, tmp_path)
    assert (outcome.state, outcome.loss) == ("finished", metrics.evaluations[-1].loss)
    assert main(["report", str(place)]) == 0
    assert "diverged" not in capsys.readouterr().out


def test_seconds_count_only_for_runs_that_had_the_machine_alone(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    lines = []
    for run in comparison.runs:
        plant(tmp_path, run, [6.0, 5.5, 5.0])
        lines.append(json.dumps({"run": run.name, "event": "started", "jobs": 1, "threads": 2}))
    (tmp_path / ATTEMPTS).write_text("\n".join(lines) + "\n")
    assert column(results(members(comparison, tmp_path), "baseline").rows, 9) == ["1.00", "1.00"]
    environment = RunPaths(comparison.runs[0].directory(tmp_path)).environment
    environment.write_text('{"device": "cuda:0, NVIDIA H100 80GB HBM3"}')
    on_two_devices = column(results(members(comparison, tmp_path), "baseline").rows, 9)
    assert on_two_devices == ["not measured"] * 2
    environment.write_text("{}")
    again = {"run": comparison.runs[0].name, "event": "started", "jobs": 1, "threads": 1}
    (tmp_path / ATTEMPTS).write_text("\n".join([*lines, json.dumps(again)]) + "\n")
    seconds = column(results(members(comparison, tmp_path), "baseline").rows, 9)
    assert seconds == ["not measured"] * 2


def test_a_variant_with_a_diverged_seed_is_never_better(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written(**{"[0, 1, 2]": "[0, 1, 2, 3]"}))
    for run in comparison.runs:
        gain = 1.0 if run.variant == "slw" else 0.0
        lost = run.variant == "slw" and run.seed == 3
        losses = [6.0, 5.0 - gain + 0.01 * run.seed]
        plant(tmp_path, run, losses, end="skipped" if lost else "finished")
    found = members(comparison, tmp_path)
    (line,) = verdict_lines(pair_verdicts(found, comparison))
    assert "not distinguishable" in line
    assert "slw diverged in 1 seed" in line
    assert column(results(found, "baseline").rows, 1) == ["4 of 4", "3 of 4, 1 diverged"]


def test_a_goal_that_no_seed_reaches_is_not_reached(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        plant(tmp_path, run, [6.0, 5.0 if run.variant == "baseline" else 5.5])
    rows = results(members(comparison, tmp_path), "baseline").rows
    assert column(rows, 8) == ["1.00", "not reached"]


def test_two_seeds_are_too_few(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written(**{"[0, 1, 2]": "[0, 1]"}))
    for run in comparison.runs:
        plant(tmp_path, run, [6.0, 4.0 if run.variant == "slw" else 5.0])
    table = verdict_table(pair_verdicts(members(comparison, tmp_path), comparison))
    assert column(table.rows, 1) == ["too few seeds"]


def test_a_crash_is_a_result(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs[1:]:
        plant(tmp_path, run, [6.0, 5.0])
    outcomes, missing = read_outcomes(comparison, tmp_path)
    assert (len(outcomes), missing) == (5, 1)
    crash = {"run": comparison.runs[0].name, "event": "ended", "message": "out of memory"}
    (tmp_path / ATTEMPTS).write_text(json.dumps(crash) + "\n")
    outcomes, missing = read_outcomes(comparison, tmp_path)
    assert [outcome.state for outcome in outcomes].count("crashed") == 1
    assert missing == 0


@pytest.mark.parametrize("what", ["tokenizer", "valid"])
def test_runs_of_another_tokenizer_or_validation_set_are_refused(
    written: Written, tmp_path: Path, what: str
) -> None:
    comparison = read_comparison(written())
    for number, run in enumerate(comparison.runs):
        digests = {"tokenizer": "a" * 64, "valid": "b" * 64}
        with_overrides = {what: "c" * 64} if number == 3 else {}
        plant(tmp_path, run, [6.0, 5.0], environment=digests | with_overrides)
    with pytest.raises(DataError, match="not comparable"):
        read_outcomes(comparison, tmp_path)


def test_runs_of_another_text_are_refused(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written())
    for number, run in enumerate(comparison.runs):
        plant(tmp_path, run, [6.0, 5.0], store_id=str(number % 2) * 32)
    with pytest.raises(DataError, match="trained on different stores"):
        read_outcomes(comparison, tmp_path)


def test_a_crash_decides_nothing(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written())
    lines = []
    for run in comparison.runs:
        crashed = run.variant == "slw"
        plant(tmp_path, run, [6.0, 4.0 if crashed else 5.0], end="saved" if crashed else "finished")
        if crashed:
            lines.append({"run": run.name, "event": "ended", "message": "\x1b[31mdisk full"})
    (tmp_path / ATTEMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = members(comparison, tmp_path)
    (line,) = verdict_lines(pair_verdicts(found, comparison))
    assert line == "baseline and slw: too few seeds (0 finished in both, 3 are needed)"
    assert found[1].outcomes[0].attempts.message == "\\x1b[31mdisk full"
    rows = results(found, "baseline").rows
    assert (rows[1][1], rows[1][7], rows[1][8]) == ("0 of 3, 3 crashed", "-", "-")


def test_a_crashed_baseline_sets_no_goal(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        crashed = run.variant == "baseline" and run.seed == 0
        losses = [8.5] if crashed else [8.5, 5.0]
        plant(tmp_path, run, losses, end="saved" if crashed else "finished")
    crash = {"run": "baseline/seed-0", "event": "ended", "message": "out of memory"}
    (tmp_path / ATTEMPTS).write_text(json.dumps(crash) + "\n")
    rows = results(members(comparison, tmp_path), "baseline").rows
    assert column(rows, 8) == ["1.00", "1.00"]
    # One that crashed is neither stable nor unstable.
    assert column(rows, 7) == ["2 of 2", "3 of 3"]


@pytest.mark.parametrize("tokens", [0, None])
def test_a_goal_that_was_reached_before_the_first_step_or_uncounted_is_no_number_of_times(
    written: Written, tmp_path: Path, tokens: int | None
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        plant(tmp_path, run, [6.0, 5.0])
        if run.variant == "slw":  # such as one that begins with weights of before
            log = RunPaths(run.directory(tmp_path)).metrics
            before = {"kind": "eval", "step": 0, "tokens": tokens, "loss": 4.9, "perplexity": 134.3}
            log.write_text(json.dumps(before) + "\n" + log.read_text())
    table = results(members(comparison, tmp_path), "baseline")
    assert column(table.rows, 8) == ["1.00", "-"]


def test_a_goal_that_was_reached_and_then_lost_is_not_reached(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        lost = run.variant == "slw"
        plant(tmp_path, run, [6.0, 4.0 if lost else 5.0], end="skipped" if lost else "finished")
    row = results(members(comparison, tmp_path), "baseline").rows[1]
    assert (row[1], row[7], row[8]) == ("0 of 3, 3 diverged", "0 of 3", "not reached")


def test_a_finite_loss_that_rises_again_is_tested_like_any_other(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        plant(tmp_path, run, [3.0, 1.0 + 0.01 * run.seed, 1.25 if run.variant == "slw" else 1.19])
    (row,) = verdict_table(pair_verdicts(members(comparison, tmp_path), comparison)).rows
    assert row[5] == "3"
    assert row[1] in ("better", "not distinguishable")


def test_the_family_is_all_pairs_of_the_file_however_few_are_finished(
    written: Written, tmp_path: Path
) -> None:
    more = "".join(f"[variants.v{n}]\noptimizer.clip = 0.{n}\n" for n in (1, 2, 3))
    comparison = read_comparison(written(more=more))
    gaps = {0: 0.1, 1: 0.12, 2: 0.13}  # p = 0.0056 alone, times 10 pairs
    for run in comparison.runs:
        if run.variant in ("baseline", "slw"):
            gap = gaps[run.seed] if run.variant == "baseline" else 0.0
            plant(tmp_path, run, [6.0, 5.0 + gap])
    found = members(comparison, tmp_path)
    assert (
        verdict_table(pair_verdicts(found, replace(comparison, variants=("baseline", "slw")))).rows[
            0
        ][1]
        == "worse"
    )
    (row,) = verdict_table(pair_verdicts(found, comparison)).rows
    assert row[1] == "not distinguishable"


def test_a_half_done_grid_is_shown_without_a_baseline_in_sight(
    written: Written, tmp_path: Path
) -> None:
    grid = SWEEP + "[[grid]]\nbatch.rows = [8, 16]\n"
    comparison = read_comparison(written(more=grid))
    for run in comparison.runs:
        if run.config.batch.rows == 8 or run.variant == "slw":
            plant(tmp_path, run, [6.0, 5.0])
    (table,) = sweep_tables(comparison, members(comparison, tmp_path))
    assert [row[4] for row in table.rows] == ["1.00", "1.00", "-"]


def test_a_sweep_says_where_each_variant_is_best_and_where_it_breaks(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written(more=SWEEP))
    loss = {0.001: 5.6, 0.003: 5.3, 0.01: 5.2, 0.03: 5.1}
    for run in comparison.runs:
        rate = run.config.optimizer.learning_rate
        slw = run.variant == "slw"
        breaks = rate >= (0.03 if slw else 0.01)
        final = loss[rate] - (0.1 if slw else 0.0)
        plant(tmp_path, run, [6.0, final + 0.05, final], probe=1.3 if breaks else 0.99)
    found = members(comparison, tmp_path)
    (table,) = sweep_tables(comparison, found)
    assert table.rows == (
        ("baseline", "0.003", "5.300", "0.01", "1.00"),
        # At its own best rate, against the best stable baseline, though another was lower.
        ("slw", "0.01", "5.100", "0.03", "1.50"),
    )
    losses, steps, probes = sweep_panels(comparison, found)
    assert losses.log_x
    baseline, faster = losses.curves
    assert [x for x, _ in baseline.points] == [0.001, 0.003, 0.01, 0.03]
    assert [y for _, y in faster.points] == pytest.approx([5.5, 5.2, 5.1, 5.0])
    assert [y for _, y in probes.curves[0].points] == [0.99, 0.99, 1.3, 1.3]
    assert steps.threshold == 1.2


def test_the_largest_values_are_a_mean_within_the_lowest_and_the_highest(
    trained: tuple[Comparison, Path],
) -> None:
    for row in peaks(members(*trained)).rows:
        for cell in row[1:]:
            mean, low, high = map(float, re.findall(r"[-.e\d]+", cell))
            assert 0 <= low <= mean <= high
