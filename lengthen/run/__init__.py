"""A run's directory and the records in it."""
