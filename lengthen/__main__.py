"""`python -m lengthen`, which launchers of many processes need."""

from lengthen.cli.main import entry

entry()
