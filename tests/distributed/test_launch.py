"""Ranks meet, whatever their launchers count; what keeps them apart has a name."""

import os
from functools import partial

import pytest

from lengthen.config.schema import Run
from lengthen.distributed.launch import join_process_group
from lengthen.util.errors import PeerError, SettingError
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


@takes("start with torchrun")
@pytest.mark.parametrize(
    ("world_size", "message"),
    [("2", "WORLD_SIZE: no launcher said all of it "), ("two", "WORLD_SIZE: must be a whole ")],
)
def test_an_environment_of_no_launcher_is_one_line(
    monkeypatch: pytest.MonkeyPatch, world_size: str, message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(SettingError, match=message), join_process_group(RUN):
        pass
    monkeypatch.setenv("WORLD_SIZE", "")
    with join_process_group(RUN) as context:
        assert context.world_size == 1
    monkeypatch.delenv("WORLD_SIZE")
    assert results(joined, joined) == ["2", "2"]
