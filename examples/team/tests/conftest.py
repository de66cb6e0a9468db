"""The fixtures of the service's devkit."""

pytest_plugins = ["devkit.plugin"]
