"""The process: its threads, clocks and forks, and the watchdog that ends it when it hangs."""
