"""Records as a pandas data frame."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from ...record import Record
from ...results import archive
from .rows import Row, rows

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

#: Where a project has records.
PLACES = (Path("baselines"), Path(".prunebench"))

Source = str | Path | Record


def frame(source: Source | Iterable[Source] | None = None) -> pd.DataFrame:
    """A row per measurement: case, model, method, sparsity, metric, value, standard error, ...

    Args:
        source: records, or results folders, baselines folders, records and files of ``run --json``,
            of which the newest record of each case is taken; one or several. By default baselines/
            and .prunebench/, as far as they are there.

    Raises:
        PrunebenchError: if a path is none of these.
    """
    import pandas as pd

    if source is None:
        source = [place for place in PLACES if place.is_dir()]
    given = [source] if isinstance(source, Source) else list(source)
    records = [one for one in given if isinstance(one, Record)]
    records += archive.newest(Path(one) for one in given if not isinstance(one, Record))
    found = pd.DataFrame([asdict(row) for row in rows(records)], columns=Row.__struct_fields__)
    # Nothing is a missing number here, also where a whole column has none.
    numbers = ["amount", "value", "standard_error", "chance"]
    found[numbers] = found[numbers].astype(float)
    found["seed"] = found["seed"].astype("Int64")
    return found
