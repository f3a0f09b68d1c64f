"""Errors, disk, console, tables, statistics: nothing here knows about training."""
