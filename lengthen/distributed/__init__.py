"""Device, ranks and memory of the processes of a run."""
