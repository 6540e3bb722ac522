"""Where each patch of one picture appears in another: one definition, several implementations.

`match` finds the best place of every patch; `patch_correlation` is the plain definition that all
implementations equal, ties included.
"""

from dsin.runtime.patch_correlation.definition import Matches, match, patch_correlation

__all__ = ["Matches", "match", "patch_correlation"]
