"""The settings: types, defaults, rules, recipes, and how files and flags are merged."""
