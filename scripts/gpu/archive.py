"""One archive of all that a visit to a GPU has found, never larger than what may travel back."""

import tarfile
from pathlib import Path

LIMIT = 15_000_000  # bytes
KEPT = {".json", ".jsonl", ".log", ".md", ".toml", ".txt", ".xml"}  # weights stay behind


def archive(results: Path, target: Path, limit: int = LIMIT) -> list[str]:
    """Pack the results into `target` (tar.xz) whole; return the names of what found no room.

    The largest files are left out first, until the archive is below `limit` bytes.
    """
    files = sorted(
        (path for path in results.rglob("*") if path.suffix in KEPT and path.is_file()),
        key=lambda path: (path.stat().st_size, path),
    )
    left_out: list[str] = []
    while True:
        _pack(results, files, target)
        if target.stat().st_size <= limit:
            return left_out
        left_out.append(str(files.pop().relative_to(results)))


def _pack(results: Path, files: list[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with tarfile.open(part, "w:xz") as packed:
        for path in files:
            packed.add(path, f"gpu-results/{path.relative_to(results)}")
    part.replace(target)
