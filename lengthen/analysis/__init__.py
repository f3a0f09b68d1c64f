"""What the records of a run say: summary, instability, logs of other trainers."""
