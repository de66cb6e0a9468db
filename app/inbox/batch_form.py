"""How to run many executions of one statement as one batch.

The statements define the batches, and the engine runs them. Neither imports the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class BatchForm:
    """The batch of a statement, and the row of each execution.

    ``make`` returns the batch for N executions. Execution 3 has the parameters that end in
    ``__3``. A batch that changes fewer than N rows is rolled back. ``row`` builds the row that the
    single statement would return, given its parameters.
    """

    make: Callable[[int], sa.Executable]
    row: Callable[[dict[str, Any]], tuple[Any, ...]]
