"""The optimizer step, the loop around it, and how a run begins."""
