"""What runs show: as text in the terminal, or as one page."""
