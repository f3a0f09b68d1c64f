"""The weights of a Transformers folder: checked by their headers, then loaded.

A folder may come from anybody. The library refuses headers that lie about their file. Names, shapes
and types are compared with config.json here, and the memory that they will take with what is free,
all before a tensor is loaded.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lengthen.checkpoint.read import Tensors
from lengthen.checkpoint.verify import FILE_NAME
from lengthen.config.model import Model
from lengthen.distributed.memory import cpu_memory_limit
from lengthen.exchange.architectures import Architecture
from lengthen.exchange.layout import (
    BUFFERS,
    HEAD,
    Shape,
    first_difference,
    is_transposed,
    parameter_shapes,
    plain_name,
    their_names,
    to_theirs,
)
from lengthen.util.disk import lfs_pointer, read_limited
from lengthen.util.errors import CheckpointError, MemoryLimitError, one_line, shown

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
INDEX_LIMIT = 2**24  # bytes
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
OTHERS = ("*.safetensors", "*.gguf", "*.h5", "*.msgpack", "*.onnx")
# Half precision is widened, which loses nothing.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float32, "BF16": torch.float32}

_open: Callable[..., AbstractContextManager[Any]] = safe_open


@dataclass(frozen=True)
class Stored:
    """A tensor in an open file, not loaded."""

    file: Any
    name: str  # in the file
    shape: Shape
    dtype: str

    def load(self, dtype: torch.dtype) -> Tensor:
        """Return it as `dtype`, on the CPU."""
        tensor: Tensor = self.file.get_tensor(self.name)
        return tensor.to(dtype)


def read_weights(folder: Path, architecture: Architecture, model: Model) -> Tensors:
    """Return the weights of `folder` by our names, contiguous, all that `model` has and no others.

    Where the head is tied, the embedding may be stored as the head alone. Raises CheckpointError
    for what does not fit `model`, MemoryLimitError for more than fits here.
    """
    try:
        with _open_tensors(folder, architecture.prefix) as stored:
            return _load(stored, architecture, model)
    except (CheckpointError, MemoryLimitError) as error:
        raise type(error)(f"folder {folder}: {error}") from None


def _load(stored: dict[str, Stored], architecture: Architecture, model: Model) -> Tensors:
    (embedding,) = their_names(architecture, "tokens.weight")
    head = stored.pop(HEAD, None) if model.tied else None
    if head:
        stored.setdefault(embedding, head)  # of tensors that share memory, one is saved
    dtype = _check(stored, architecture, model)
    if head:  # before the rest: one that is tied by name only should not cost a minute
        _check_head(head, stored[embedding])
    weights = {}
    for name in parameter_shapes(model):
        names = their_names(architecture, name)
        tensor = torch.cat([stored[one].load(dtype) for one in names])
        weights[name] = (tensor.T if is_transposed(architecture, name) else tensor).contiguous()
    return weights


@contextmanager
def _open_tensors(folder: Path, prefix: str) -> Iterator[dict[str, Stored]]:
    """Open every tensor of a folder but the buffers, by its name without the prefix."""
    tensors: dict[str, Stored] = {}
    with ExitStack() as stack:
        for stored in chain.from_iterable(_header(path, stack) for path in _files(folder)):
            plain = plain_name(stored.name, prefix)
            if plain in tensors:
                raise CheckpointError(f"holds {shown(plain)} twice")
            if not BUFFERS.fullmatch(plain):
                tensors[plain] = stored
        yield tensors


def _header(path: Path, stack: ExitStack) -> list[Stored]:
    try:
        # A pipe in a file's place would keep us waiting for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CheckpointError(f"{path.name} must be a regular file")
        file = stack.enter_context(_open(path, framework="pt"))
        slices = [(name, file.get_slice(name)) for name in list(file.keys())]
        return [Stored(file, name, tuple(s.get_shape()), s.get_dtype()) for name, s in slices]
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} {_reason(path, error)}") from None


def _reason(path: Path, error: Exception) -> str:
    with suppress(OSError), path.open("rb") as file:
        if pointer := lfs_pointer(file.read(64)):
            return pointer
    if "not fully covered" in str(error):
        return f"is cut off, or longer than its header says ({one_line(error)}); copy it again"
    return f"cannot be read ({one_line(error)})"


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        names = _shards(folder / INDEX)
        if missing := [name for name in names if not (folder / name).exists()]:
            rule = f"{len(missing)} of {len(names)} files that {INDEX} names are missing"
            raise CheckpointError(f"{rule}: {missing[0]}; copy it again")
        return [folder / name for name in names]
    pickles, others = (
        sorted(path.name for pattern in patterns for path in folder.glob(pattern))
        for patterns in (PICKLES, OTHERS)
    )
    if pickles:
        rule = f"has weights only as pickle ({shown(pickles[0])}), which can run any code"
        raise CheckpointError(f"{rule}; save it as safetensors first")
    only = f", only {shown(others[0])}" if others else ""
    raise CheckpointError(f"has neither {WEIGHTS} nor {INDEX}{only}")


def _shards(path: Path) -> list[str]:
    """Return the names of the files that an index spreads the tensors over."""
    try:
        index = json.loads(read_limited(path.resolve(), INDEX_LIMIT))
        names = sorted(set(index["weight_map"].values()))
        strange = [name for name in names if not FILE_NAME.fullmatch(name)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{INDEX} cannot be used ({one_line(error)})") from None
    if strange or not names:
        raise CheckpointError(f"{INDEX} names {shown(strange[0]) if strange else 'no file'}")
    return names


def _check(stored: dict[str, Stored], architecture: Architecture, model: Model) -> torch.dtype:
    """Return the one type that loses nothing of any of them."""
    expected: dict[str, Shape] = {}
    for ours, shape in parameter_shapes(model).items():
        theirs = to_theirs(architecture, model, ours, torch.empty(shape, device="meta"))
        expected |= {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    if problem := first_difference(shapes, expected):
        raise CheckpointError(f"{problem}, by its config.json")
    for name, tensor in stored.items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"has {name} as {tensor.dtype}, must be {', '.join(DTYPES)}")
    dtypes = {DTYPES[tensor.dtype] for tensor in stored.values()}
    dtype = max(dtypes, key=lambda one: one.itemsize)
    needed = sum(map(math.prod, shapes.values())) * dtype.itemsize
    if needed > (free := cpu_memory_limit()):
        raise MemoryLimitError(f"its weights take {needed} bytes, {free} are free")
    return dtype


def _check_head(head: Stored, embedding: Stored) -> None:
    # Values that are not finite are refused elsewhere, and equal nothing, not even themselves.
    pair = [one.load(torch.float64).nan_to_num() for one in (head, embedding)]
    if not torch.equal(*pair):
        raise CheckpointError(f"{HEAD} is not tied to the embedding, as config.json says")
