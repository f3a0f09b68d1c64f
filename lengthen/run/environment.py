"""environment.json: what a run depends on besides its configuration."""

import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lengthen.util.disk import read_limited
from lengthen.util.errors import DataError

PACKAGES = ("lengthen", "torch", "numpy", "tokenizers", "safetensors", "pydantic")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE")
SECRET = re.compile(r"token=|key|secret|password", re.IGNORECASE)
LIMIT = 2**20  # bytes of the file


def read_environment(path: Path) -> dict[str, Any]:
    """Return what environment.json says, nothing where there is none; raises DataError."""
    if not path.is_file():
        return {}
    data = read_limited(path.resolve(), LIMIT)
    with suppress(ValueError, RecursionError):
        if isinstance(environment := json.loads(data), dict):
            return environment
    raise DataError(f"file {path}: must be a JSON object")


def environment(command: Sequence[str]) -> dict[str, Any]:
    """Return what a run depends on besides its configuration, for environment.json."""
    return {
        "begun": datetime.now().astimezone().isoformat(),  # tells it from another of these words
        "command": [_masked(word) for word in command],
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


@cache  # every checkpoint asks
def processor() -> str:
    """Return the model of the processor, as the system has it."""
    with suppress(OSError):  # Linux has its model there
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        return found.group(1) if found else platform.processor()
    return platform.processor()


def _masked(word: str) -> str:
    name, equals, _ = word.partition("=")
    return f"{name}=***" if equals and SECRET.search(name + equals) else word


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source tree, "-dirty" after it; None for an installed package."""
    root = Path(__file__).parents[2]
    if not os.path.exists(root / ".git"):  # nor may it be out of reach
        return None
    options = ["--always", "--abbrev=40", "--dirty", "--exclude=*"]  # no tag in its place
    command = ["git", "-C", str(root), "describe", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        return done.stdout.strip() or None  # git may refuse another user's tree
    except (OSError, subprocess.SubprocessError):
        return None
