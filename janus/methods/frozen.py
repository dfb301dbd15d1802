"""The floors: what the pre-trained features are worth without any adaptation."""

from __future__ import annotations

from .base import Method


class Frozen(Method):
    """Linear heads on a frozen backbone, trained like every other method's.

    A method below it has only forgotten.
    """

    name = "frozen"
    summary = "heads only, the backbone never changes"
    trains_features = False
    family = "bound"


class Probe(Frozen):
    """One linear head on the frozen backbone, trained on all classes together.

    `joint` minus this is what adaptation is worth.
    """

    name = "probe"
    summary = "one head on all classes at once, the backbone never changes"
    family = "bound"


class NearestClassMean(Method):
    """The nearest class mean of frozen features, by cosine (`janus.classifiers`). Nothing is trained."""

    name = "ncm"
    summary = "nearest class mean on the frozen backbone"
    paper = "Mensink et al., Distance-Based Image Classification, TPAMI 2013"
    trains_heads = trains_features = False
    family = "prototype"
    inference = "the product with the class means instead of the heads'"
