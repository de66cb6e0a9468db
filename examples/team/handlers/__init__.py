"""The handler modules of the team."""
