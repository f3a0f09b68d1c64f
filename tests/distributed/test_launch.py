"""Ranks meet, whatever their launchers count; what keeps them apart has a name."""

import os
from functools import partial

import pytest

from lengthen.config.schema import Run
from lengthen.distributed.launch import join_process_group
from lengthen.util.errors import PeerError
from tests.ranks import results
from tests.ways_out import takes

pytestmark = pytest.mark.ranks
RUN = Run(device="cpu", timeout_seconds=10)


def meets(restarts: int) -> int:
    """What the ranks have in sum, where this one's launcher counts so many restarts."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(restarts)
    with join_process_group(RUN) as context:
        return sum(number for (number,) in context.all_gather([restarts + 1]))


def test_a_rank_of_a_machine_that_came_back_meets_those_that_waited() -> None:
    assert results(partial(meets, 1), partial(meets, 0)) == [3, 3]


def joined() -> str:
    try:
        with join_process_group(RUN) as context:
            context.barrier()
            return str(context.world_size)
    except PeerError as error:
        return str(error)


@takes("set GLOO_SOCKET_IFNAME to the interface between the machines")
def test_ranks_that_gloo_cannot_connect_are_told_of_its_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch")
    for line in results(joined, joined):
        assert "cannot reach another rank (" in line
        assert "Unable to find address for: nosuch)" in line
        assert line.endswith("set GLOO_SOCKET_IFNAME to the interface between the machines")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert results(joined, joined) == ["2", "2"]
