"""A disk whose power can fail: it notes every effect, and tells what may be left at any moment.

What no sync has made sure is kept or lost, each by itself; an unsynced write may also be mangled.
A file's sync makes its bytes sure and not its name; names are sure once their directory is synced.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lengthen.util.disk import Disk, DiskFile

KEPT, LOST = 0, 1  # what is neither is mangled
Choose = Callable[[int], int]  # how many ways there are -> the way it went
Left = dict[str, "bytes | Left"]  # a directory after the power has failed


@dataclass(frozen=True)
class Effect:
    """One thing that a disk was asked for."""

    kind: str
    path: Path
    source: Path | None = None  # of a rename
    data: bytes = b""


class NotedDisk(Disk):
    """A real disk that notes its effects."""

    def __init__(self) -> None:
        super().__init__()
        self.effects: list[Effect] = []

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self.effects.append(Effect("make", path))

    def create(self, path: Path) -> DiskFile:
        super().create(path).close()
        self.effects.append(Effect("create", path))
        return NotedFile(self, path, path.open("ab"))

    def open_append(self, path: Path) -> DiskFile:
        if not path.exists():
            self.effects.append(Effect("create", path))
        super().open_append(path).close()
        return NotedFile(self, path, path.open("ab", buffering=0))

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.effects.append(Effect("sync", path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.effects.append(Effect("rename", target, source))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.effects.append(Effect("remove", path))


class NotedFile(DiskFile):
    """A file of a noted disk."""

    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        self._note(Effect("write", self.path, data=bytes(data)))

    def sync(self) -> None:
        super().sync()
        self._note(Effect("sync", self.path))

    def _note(self, effect: Effect) -> None:
        assert isinstance(self._disk, NotedDisk)
        self._disk.effects.append(effect)


@dataclass
class File:
    """Bytes that are sure, and writes that are not."""

    sure: bytes = b""
    unsure: list[bytes] = field(default_factory=list)

    def sync(self) -> None:
        self.sure += b"".join(self.unsure)
        self.unsure.clear()

    def left(self, choose: Choose) -> bytes:
        fates = [(data, choose(3)) for data in self.unsure]
        mangled = (
            data if fate == KEPT else bytes(len(data)) for data, fate in fates if fate != LOST
        )
        return self.sure + b"".join(mangled)


@dataclass
class Folder:
    """Names that are sure, and changes of names that are not: each adds some and drops some."""

    sure: dict[str, "File | Folder"] = field(default_factory=dict)
    unsure: list[dict[str, "File | Folder | None"]] = field(default_factory=list)

    def now(self) -> dict[str, "File | Folder"]:
        return changed(self.sure, self.unsure)

    def sync(self) -> None:
        self.sure = self.now()
        self.unsure.clear()

    def left(self, choose: Choose) -> Left:
        names = changed(self.sure, [change for change in self.unsure if choose(2) == KEPT])
        return {name: names[name].left(choose) for name in sorted(names)}

    def at(self, path: Path) -> "File | Folder":
        found: File | Folder = self
        for name in path.parts:
            assert isinstance(found, Folder)
            found = found.now()[name]
        return found


def changed(
    names: dict[str, "File | Folder"], changes: list[dict[str, "File | Folder | None"]]
) -> dict[str, "File | Folder"]:
    for change in changes:
        added = {name: node for name, node in change.items() if node is not None}
        names = {name: node for name, node in names.items() if name not in change} | added
    return names


def moments(effects: list[Effect], root: Path) -> Iterator[Folder]:
    """Yield what is in `root` ahead of every effect and behind the last; it changes in place."""
    top = Folder()
    yield top
    for effect in effects:
        _happen(effect, top, root)
        yield top


def _happen(effect: Effect, top: Folder, root: Path) -> None:
    path = effect.path.relative_to(root)
    folder = top.at(path.parent)
    assert isinstance(folder, Folder)
    if effect.kind in ("make", "create"):
        folder.unsure.append({path.name: Folder() if effect.kind == "make" else File()})
    elif effect.kind == "rename":
        assert effect.source is not None
        assert effect.source.parent == effect.path.parent
        node = top.at(effect.source.relative_to(root))
        folder.unsure.append({effect.source.name: None, path.name: node})
    elif effect.kind == "remove":
        _empty(folder.now()[path.name])
        folder.unsure.append({path.name: None})
    else:
        node = top.at(path)
        if effect.kind == "sync":
            node.sync()
        else:
            assert isinstance(node, File)
            node.unsure.append(effect.data)


def _empty(node: File | Folder) -> None:
    """Take out what is in a directory, name by name, as its removal does."""
    if isinstance(node, Folder):
        for name, inner in node.now().items():
            _empty(inner)
            node.unsure.append({name: None})


class Script:
    """Choices in every combination: run through it until it is over."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []  # ways there are, way taken
        self._at = 0

    def choose(self, ways: int) -> int:
        if self._at == len(self._taken):
            self._taken.append((ways, 0))
        self._at += 1
        return self._taken[self._at - 1][1]

    def goes_on(self) -> bool:
        """Go to the next combination; return whether there is one."""
        self._at = 0
        while self._taken:
            ways, way = self._taken.pop()
            if way + 1 < ways:
                self._taken.append((ways, way + 1))
                return True
        return False


def every_way(top: Folder) -> Iterator[Left]:
    """Yield what is left for every combination of choices."""
    script = Script()
    yield top.left(script.choose)
    while script.goes_on():
        yield top.left(script.choose)


def put(left: Left, folder: Path) -> None:
    """Make a new directory of what is left."""
    folder.mkdir()
    for name, content in left.items():
        if isinstance(content, dict):
            put(content, folder / name)
        else:
            (folder / name).write_bytes(content)
