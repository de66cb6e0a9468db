"""The process itself: its threads, clocks and forks, and the watchdog that ends it."""
