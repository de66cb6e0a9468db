"""Measurements. They print ratios of figures taken in one run, and assert nothing."""
