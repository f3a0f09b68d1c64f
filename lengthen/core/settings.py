"""What settings mean, said where they are declared, and the settings that several pacings share."""

from dataclasses import dataclass
from typing import Annotated, Literal


@dataclass(frozen=True)
class Doc:
    """Stands in a setting's annotation: Annotated[int, Doc("full length L", "tokens")]."""

    meaning: str
    unit: str = ""
    default: str = ""  # what holds where nothing is set, if the declaration does not say it


Of = Literal["length", "rows"]
Paced = Annotated[Of, Doc("what is paced")]

VALUES = "tokens or rows"
Start = Annotated[int, Doc("value at step 0, at most `pacing.end`", VALUES)]
LAST = "last value, at most `model.length`; of rows always `batch.rows`"
End = Annotated[int, Doc(LAST, VALUES, default="full length")]
DURATION = 'first step at `end`, 0: the first; in settings also a share of the budget, "30%"'
Duration = Annotated[int, Doc(DURATION, "steps")]
Multiple = Annotated[int, Doc("values are rounded down to it; of rows 1 if not given", VALUES)]
