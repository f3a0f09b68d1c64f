"""The tuner: start and duration of a pacing, found by short trials (paper, section 2.6)."""
