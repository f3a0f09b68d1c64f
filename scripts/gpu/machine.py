"""What machine this is, for whoever reads the results; and whether it can carry the parts out."""

import json
import platform
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

CARD = "name,driver_version,memory.total,power.limit,clocks.max.sm"
NEEDED = (
    "torch",
    "numpy",
    "lengthen.cli.main",
    "lengthen.training.start",
    "lengthen.evaluation.evaluate",
)
NEEDED_BY_TESTS = ("pytest", "pytest_timeout", "hypothesis")


def missing() -> list[str]:
    """Return the packages that the parts need and that are not here."""
    found = []
    for name in (*NEEDED, *NEEDED_BY_TESTS):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            found.append(str(error.name))
    return sorted(set(found))


def card() -> dict[str, str]:
    """Return what the driver says of the first GPU; nothing where there is none."""
    query = ["nvidia-smi", f"--query-gpu={CARD}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(CARD.split(","), (word.strip() for word in said.split(",")), strict=False))


def facts() -> dict[str, Any]:
    """Return what figures of this machine depend on."""
    torch = import_module("torch")
    return {
        "card": card(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": sorted(f"{one.metadata['Name']}=={one.version}" for one in distributions()),
    }


def main(folder: str, rehearse: str = "") -> str | None:
    """Write the facts into a folder; return why no part can be run here, if none can."""
    if absent := missing():
        way_out = "run `make gpu-wheels` where there is a network, and bring .gpu/wheels along"
        if "torch" in absent:  # never among the wheels
            way_out = "name the Python that has PyTorch: `make gpu PYTHON=...`"
        return f"gpu: these packages are missing here: {', '.join(absent)}; {way_out}"
    found = facts()
    (Path(folder) / "machine.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"gpu: {found['gpu'] or 'no GPU'}, torch {found['torch']}, Python {found['python']}")
    if found["gpu"] is None and not rehearse:
        return "gpu: PyTorch finds no GPU here; `make gpu REHEARSE=1` tries it all on a processor"
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
