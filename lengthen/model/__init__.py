"""The GPT, its optimizer and its cost."""
