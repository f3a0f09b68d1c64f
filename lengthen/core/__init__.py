"""The method, with numpy alone.

pacing: step -> length or rows. ledger: which tokens of the corpus were read, are left, come next.
shuffle: the order of an epoch. schedule: rows, length and learning rate of a step, and where the
budget ends. loss_ratio: loss / lowest earlier loss, the paper's measure of instability.
"""
