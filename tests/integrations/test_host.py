"""A host that is not installed, or too old: its integration is imported, and its use says so."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lengthen.integrations import host
from lengthen.integrations.accelerate import LengthenLoader
from lengthen.integrations.host import Host
from lengthen.util.errors import SettingError
from tests.ways_out import takes

ROOT = Path(__file__).parents[2]
USES = {
    "transformers": "LengthenCallback(None, 'run')",
    "lightning": "LengthenDataModule('store', None)",
    "accelerate": "LengthenLoader(None, 'store', None, 'run')",
}


@takes("pip install 'lengthen[{}]'")  # the extras are those of pyproject.toml
@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("found", [None, "0.9.1"])
def test_an_integration_without_its_host_is_imported_and_its_use_names_the_extra(
    name: str, found: str | None
) -> None:
    # Hidden from the interpreter, as if this environment lacked it.
    code = f"""
import sys
from importlib import metadata
real = metadata.version
def version(package):
    if package != {name!r}:
        return real(package)
    if {found!r} is None:
        raise metadata.PackageNotFoundError(package)
    return {found!r}
metadata.version = version
sys.modules[{name!r}] = None
from lengthen.integrations.{name} import *
from lengthen.util.errors import SettingError
try:
    {USES[name]}
except SettingError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extra = "lightning" if name == "lightning" else "hf"
    least = {"transformers": "5.6", "lightning": "2.6", "accelerate": "1.15"}[name]
    rule = f"must be {least} or newer, got '0.9.1'" if found else "is not installed"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert f"{name}>={least}" in extras[extra]
    assert run.stdout == f"{name}: {rule}; pip install 'lengthen[{extra}]'\n"


def test_what_is_no_accelerator_is_refused() -> None:
    given: Any = None
    with pytest.raises(SettingError, match="^accelerator: must be an Accelerator"):
        LengthenLoader(given, "store", given, "run")


@pytest.mark.parametrize(
    ("found", "will_do"),
    [("2.6", True), ("2.6.0.post1", True), ("2.10.1", True), ("3", True), ("2.5.9", False)],
)
def test_versions_are_compared_as_numbers(
    monkeypatch: pytest.MonkeyPatch, found: str, will_do: bool
) -> None:
    monkeypatch.setattr(host, "version", lambda _: found)
    some: Any = Host("lightning", "2.6", "lightning")
    assert (some.mistake() is None) == will_do
    if not will_do:
        with pytest.raises(SettingError, match=r"^lightning: must be 2\.6 or newer, got '2\.5\.9'"):
            some.stand_in()("some", argument=1)
