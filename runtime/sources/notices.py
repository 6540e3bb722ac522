"""What a source has to say of itself beside its pictures."""

import logging
import multiprocessing
from functools import lru_cache

LOG = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def tell(line: str) -> None:
    """Log a line once, and only in the process that a person has started: children open the same
    sources again."""
    if multiprocessing.parent_process() is None:
        LOG.warning(line)
