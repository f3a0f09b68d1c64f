"""Comparisons and reports read the logs of the pinned hosts."""

from pathlib import Path

import pytest

from tests.integrations.compared import check_compared

pytestmark = pytest.mark.hosts


def test_a_comparison_over_scripts_of_hosts_reads_their_logs(store: Path, tmp_path: Path) -> None:
    losses = check_compared(["plain", "lightning", "deepspeed"], store, tmp_path)
    assert losses["lightning"] == pytest.approx(losses["plain"], rel=1e-10)
    assert losses["deepspeed"] == pytest.approx(losses["plain"], rel=1e-5)  # in float32
