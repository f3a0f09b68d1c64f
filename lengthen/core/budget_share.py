"""The duration of a pacing as people think of it: a share of the budget, "30%"."""

import re
from fractions import Fraction
from typing import Self

from lengthen.core.pacing import MOST
from lengthen.util.errors import SettingError

PER_CENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")


class BudgetShare(int):
    """A share of the budget's tokens; as a number the longest duration, until it is worked out.

    Raises SettingError, with the bare name of the setting, unless it is above 0% and at most 100%.
    """

    text: str
    share: Fraction

    def __new__(cls, text: str) -> Self:
        """Read a share such as "30%"."""
        match = PER_CENT.fullmatch(text)
        share = Fraction(match[1]) / 100 if match else Fraction(0)
        if not 0 < share <= 1:
            rule = 'must be above 0% and at most 100% of the budget, such as "30%"'
            raise SettingError("duration", rule, text)
        longest = super().__new__(cls, MOST)
        longest.text, longest.share = text, share
        return longest

    def __deepcopy__(self, _memo: object) -> Self:
        return self
