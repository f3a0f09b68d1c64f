"""Comparisons and reports read the logs of every host that this environment has."""

from pathlib import Path

import pytest

from tests.integrations.compared import check_compared


def test_a_comparison_over_scripts_of_three_hosts_reads_their_logs(
    store: Path, tmp_path: Path
) -> None:
    losses = check_compared(["plain", "transformers", "accelerate"], store, tmp_path)
    assert losses["accelerate"] == pytest.approx(losses["plain"], rel=1e-10)
    assert losses["transformers"] == pytest.approx(losses["plain"], rel=1e-6)  # its own mean
