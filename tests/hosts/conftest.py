"""These need pinned hosts: `make test-hosts` has them, in an environment of its own."""

from importlib.util import find_spec

import pytest

REASON = "tests/hosts: left out, as lightning or deepspeed is missing here; make test-hosts"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what this environment has no host for, and say so."""
    if find_spec("lightning") and find_spec("deepspeed"):
        return
    left_out = [item for item in items if item.get_closest_marker("hosts")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        print(REASON)
