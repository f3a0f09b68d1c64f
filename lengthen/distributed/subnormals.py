"""Subnormal numbers, taken for zero: a step is to take equally long whatever the weights are."""

import torch

GRAIN = 2**15  # elements that torch gives one thread at least


def flush_subnormals() -> bool:
    """Have this process take subnormal numbers for zero, and return whether it does.

    A processor computes with them many times slower, and large attention logits make softmax give
    many. Each thread has a mode of its own, which it takes over from the thread that starts it, so
    this has to come before torch starts any. Where some run already, as in a host program, half of
    a result would be flushed: it is then left off.
    """
    torch.set_flush_denormal(True)
    if not flushes_subnormals():
        torch.set_flush_denormal(False)
        return False
    return True


def flushes_subnormals() -> bool:
    """Return whether every thread that torch computes with takes subnormal numbers for zero."""
    # As bits, here and below: a thread that flushes could neither make nor see such a number.
    size = GRAIN * torch.get_num_threads()
    smallest = torch.ones(size, dtype=torch.int32, device="cpu").view(torch.float32)
    return not (smallest * 1.0).view(torch.int32).any()
