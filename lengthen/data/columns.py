"""Tables to texts: a column of a parquet file, an Arrow file or a saved dataset."""

import importlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lengthen.data.sources import Source
from lengthen.data.store import one_line
from lengthen.data.unpack import RefusedError, UnreadableError, head_of, must_be
from lengthen.util.errors import SettingError, nearest

ROWS_BYTES, ROWS_LIMIT = 16 * 2**20, 256  # of a table, read at once

Rows = tuple[int, Iterable[list[object]]]  # how many, and their texts batch by batch


def rows(source: Source, field: str) -> Iterator[tuple[object, float]]:
    """Yield each row's `field`, and the share of the table that is behind us.

    Raises UnreadableError for a damaged table, and RefusedError for a whole one that holds no
    such text, or that the library cannot read.
    """
    try:
        if source.kind != "dataset":
            must_be(FORMAT[source.kind], head_of(source.path))
        total, batches = OPENERS[source.kind](source.path, field)
        for number, text in enumerate(chain.from_iterable(batches), start=1):
            yield text, number / total
    except (SettingError, UnreadableError, RefusedError):
        raise
    except Exception as error:  # both libraries raise all kinds
        raise _cause(source, error) from None


def _cause(source: Source, error: Exception) -> Exception:
    """Tell from what a library raised whether the table is damaged."""
    arrow = _library("pyarrow")
    if "crypt" in str(error):
        return RefusedError(f": is encrypted ({one_line(error)}); decrypt it first")
    if isinstance(error, MemoryError):
        return RefusedError(": needs more memory than there is; write it in smaller pieces")
    if isinstance(error, OSError) and error.filename:
        missing = f"{(error.strerror or '').lower()}: {Path(error.filename).name!r}"
        return UnreadableError(f": cannot be read ({missing})")
    if isinstance(error, arrow.ArrowInvalid | OSError | EOFError | json.JSONDecodeError):
        return UnreadableError(f": damaged ({one_line(error)})")
    package = _library("datasets" if source.kind == "dataset" else "pyarrow")
    version = f"{package.__name__} {package.__version__}"
    return RefusedError(
        f": {version} cannot open it ({one_line(error)}); write it again with this version, "
        "or as .jsonl"
    )


def _parquet(path: Path, field: str) -> Rows:
    file = _library("pyarrow.parquet").ParquetFile(path)
    _find_column(field, file.schema_arrow)
    total = file.metadata.num_rows
    batches = file.iter_batches(_rows_at_once(path.stat().st_size, total), columns=[field])
    return total, (_texts(batch.column(0)) for batch in batches)


def _arrow(path: Path, field: str) -> Rows:
    arrow = _library("pyarrow")
    data = arrow.memory_map(str(path))
    # Two formats share the suffix; `datasets` writes streams.
    is_file = data.read(6) == b"ARROW1"
    data.seek(0)
    table = (arrow.ipc.open_file if is_file else arrow.ipc.open_stream)(data).read_all()
    _find_column(field, table.schema)
    count = _rows_at_once(table.nbytes, table.num_rows)
    batches = table.select([field]).to_batches(max_chunksize=count)
    return table.num_rows, (_texts(batch.column(0)) for batch in batches)


def _texts(column: Any) -> list[object]:
    """Return the texts of a column; bytes for one that is no Unicode."""
    try:
        texts: list[object] = column.to_pylist()
        return texts
    except UnicodeDecodeError:
        return [_text(value) for value in column]


def _text(value: Any) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return bytes(value.as_buffer())


def _dataset(path: Path, field: str) -> Rows:
    library = _library("datasets")
    if not json.loads((path / "state.json").read_text())["_data_files"]:
        return 0, ()  # no rows at all, for which the library fails
    # Through the library, not its Arrow files: a dataset may be a selection of their rows.
    data = library.load_from_disk(str(path), keep_in_memory=False).with_format("arrow")
    _find_column(field, data.data.schema)
    total = len(data)
    column = data.select_columns([field])
    count = _rows_at_once(data.data.nbytes, total)
    starts = range(0, total, count)
    return total, (_texts(column[start : start + count].column(0)) for start in starts)


FORMAT = {"parquet": "parquet", "arrow": "Arrow"}
OPENERS = {"parquet": _parquet, "arrow": _arrow, "dataset": _dataset}


def _find_column(field: str, schema: Any) -> None:
    if field not in schema.names:
        near = one_line(nearest(field, schema.names))
        raise RefusedError(f": has no column {field!r}; {near} (--field)")
    if (number := schema.names.count(field)) > 1:
        raise RefusedError(f": has {number} columns {field!r}; rename one of them")
    kind = schema.field(field).type
    if not _is_text(kind):
        texts = [repr(one.name) for one in schema if _is_text(one.type)]
        others = f"columns of text are {', '.join(texts)}" if texts else "no column holds text"
        reason = f": column {field!r} holds {kind}, not text; {others} (--field), or convert it"
        raise RefusedError(one_line(reason))


def _is_text(kind: Any) -> bool:
    types = _library("pyarrow").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _rows_at_once(size: int, rows: int) -> int:
    return min(ROWS_LIMIT, max(1, ROWS_BYTES * rows // max(1, size)))


def _library(name: str) -> Any:
    # Imported when needed: both are large, and belong to an extra.
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        hint = "pip install 'lengthen[data]'"
        raise SettingError(
            "source", f"this format needs the package {package}", hint=hint
        ) from None
