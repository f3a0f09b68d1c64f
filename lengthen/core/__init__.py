"""The method: pacing, ledger, shuffle, schedule, loss ratio. It needs numpy alone."""
