"""The old name of ``devkit``. It works for one more release, for the tests of a team.

Each module is the one of the devkit, so that classes and fixtures are identical. ``ImportError``
where the devkit is not installed, as in the image.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

DEVKIT = "devkit"

#: The modules by their old names.
MODULES = {
    **{
        each: f"{DEVKIT}.{each}"
        for each in ("deliver", "demo", "destinations", "dev", "event_list", "plugin", "samples")
    },
    "filled": f"{DEVKIT}.placeholders",
    "stripe_api": f"{DEVKIT}.stripe_api",
}


class _RenamedModules(MetaPathFinder, Loader):
    """Imports ``app.testing.filled`` as ``devkit.placeholders``, with a warning."""

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002 - named by importlib
        target: object = None,  # noqa: ARG002 - named by importlib
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        new_name = MODULES[module.__name__.rpartition(".")[2]]
        warnings.warn(
            f"{module.__name__} is now {new_name}: import that. The next release drops the old"
            " name.",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[module.__name__] = importlib.import_module(new_name)


if importlib.util.find_spec(DEVKIT) is None:
    raise ImportError(
        f"{__name__} is now {DEVKIT}, which is not installed here. The image does not contain it:"
        " import it only in tests.",
        name=DEVKIT,
    )
sys.meta_path.append(_RenamedModules())
