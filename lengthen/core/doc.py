"""What a setting means, said where the setting is declared: the one source of every reference."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Doc:
    """Stands in a setting's annotation: Annotated[int, Doc("full length L", "tokens")]."""

    meaning: str
    unit: str = ""
    default: str = ""  # what holds where nothing is set, if the declaration does not say it
