"""RanPAC on a backbone that is never adapted: the head alone, `janus.classifiers.RanPAC`, as a method."""

from __future__ import annotations

from .frozen import NearestClassMean


class RanPAC(NearestClassMean):
    """Ridge regression on random features of the frozen backbone. Nothing is trained.

    The paper also adapts the backbone in task 1 ("phase 1"); this is its row without. Adapted features:
    `classifier=ranpac` with another method. Between tasks: see `janus.classifiers.RanPAC`.
    """

    name = "ranpac"
    summary = "ridge regression on random features of the frozen backbone"
    paper = "McDonnell et al., RanPAC, NeurIPS 2023"
    family = "prototype"
    inference = "two products, d x M and M x classes, instead of the heads'"
