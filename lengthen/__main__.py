"""`python -m lengthen`, which launchers of many processes need."""

from lengthen.cli import entry

entry()
