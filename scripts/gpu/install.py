"""Packages that a machine without a network lacks, from wheels that were brought along.

They go into a folder of their own, ahead of what is installed, and torch is never among them: a
machine with a GPU has the build of torch that fits its driver.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Other packages of a machine lean on the version of these that it has.
LEFT_AS_THEY_ARE = {"filelock", "safetensors", "tokenizers"}


def environment(wheels: Path, site: Path) -> dict[str, str]:
    """Install the wheels into the folder `site`, and return the environment that finds them.

    Where no wheels are, or none for this Python, what is installed has to do. Raises OSError where
    pip refuses a wheel.
    """
    if site.exists():
        shutil.rmtree(site)
    site.mkdir(parents=True)
    _install(sorted(wheels.glob("*.whl")) if wheels.is_dir() else [], site)
    _tell_version(site)
    path = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _install(wheels: list[Path], site: Path) -> None:
    ours = f"cp{sys.version_info.major}{sys.version_info.minor}"
    others = sorted({tag for path in wheels if (tag := _python(path)) != ours} - {""})
    if others or not wheels:
        why = f"they are for {', '.join(others)}, this is {ours}" if others else "there are none"
        print(f"gpu: no wheels installed: {why}")
        return
    if any(path.name.startswith("torch-") for path in wheels):
        raise OSError("a wheel of torch is among them, which would replace this machine's")
    wheels = [path for path in wheels if not _stays(path.name.split("-")[0])]
    options = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site)]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[-1])
    print(f"gpu: {len(wheels)} wheels installed, torch left as it is")


def _stays(name: str) -> bool:
    return name in LEFT_AS_THEY_ARE and find_spec(name) is not None


def _python(wheel: Path) -> str:
    """Return the Python that a wheel was built for, such as cp312; empty where any will do."""
    python, abi, _ = wheel.stem.split("-")[-3:]
    return python if abi.startswith("cp") else ""


def _tell_version(site: Path) -> None:
    """Let the tree, which is not installed, be found under its name and version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    facts = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(facts, encoding="utf-8")
