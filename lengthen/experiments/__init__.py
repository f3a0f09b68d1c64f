"""Many runs: comparisons, tuning, the demo, over one runner of processes."""
