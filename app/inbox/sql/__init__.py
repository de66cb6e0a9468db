"""The tables and the statements, for both databases."""
