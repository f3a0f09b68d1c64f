"""Which tokens of a row attend to each other with data.documents = "mask": those of one document.

A separator ends its document, so the next one begins behind it; a row that begins inside a document
begins with the rest of it. The pieces of a joined row count as documents, wherever they were cut.
Positions run on along the row: restarted, those beyond most documents would hardly be trained. The
target of a separator, the first token of the next document, counts as with "attend".
"""

import numpy as np
import torch
from torch import Tensor

from lengthen.core.ledger import Block, piece_ends


def documents_in(
    inputs: Tensor,
    separator: int | None,
    device: torch.device,
    blocks: tuple[Block, ...] = (),
    first_row: int = 0,
) -> Tensor | None:
    """Return the number of each token's document, rising along a row: (rows, length) int64.

    `inputs` (rows, length) int64, on the CPU, are rows of a step from `first_row` on; without its
    `blocks` they are one piece each. The numbers are on `device`. None without a separator, and
    where no row has two documents: then no mask is needed.
    """
    if separator is None:
        return None
    ends = (inputs == separator).long()
    numbers = ends.cumsum(1) - ends
    if blocks:
        tokens = first_row * inputs.shape[1] + np.arange(inputs.numel())
        pieces = np.searchsorted(piece_ends(blocks), tokens, side="right")
        numbers += torch.from_numpy(pieces).view_as(inputs)
    several = (numbers[:, 0] != numbers[:, -1]).any()
    return numbers.to(device) if several else None
