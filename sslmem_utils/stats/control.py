"""Control variates: take out of a difference what two encoders differ in whatever they were trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import DataError
from .checks import Floats, finite


def adjusted(difference: ArrayLike, covariates: ArrayLike, reference: ArrayLike) -> Floats:
    """`difference` (n,), align_g - align_f, less what a ridge regression on `covariates` (n, p) predicts.

    The regression is fitted on the images of `reference` (n,), those for which f and g have the same membership (S_S
    and S_E), so that no memorization enters it; leave-one-out chooses its penalty there (scikit-learn). Covariates must
    not know the membership: features of a third encoder or pixel statistics, not align_f. An option to study, never the
    default. Raises DataError for shapes that do not fit and for fewer than 10 images to fit on.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, inside = finite(difference, "differences"), np.asarray(reference)
    given = np.asarray(covariates, dtype=np.float64)
    if given.ndim != 2 or len(given) != values.size or inside.shape != values.shape or inside.dtype != bool:
        raise DataError(
            f"covariates must be (n, p) and reference n times true or false for n = {values.size}, found shapes "
            f"{given.shape} and {inside.shape}; give one row for each image."
        )
    finite(given, "covariates")
    if inside.sum() < 10:
        raise DataError(f"the regression needs 10 reference images or more, found {inside.sum()}; keep S_S or S_E.")
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-3, 5, 17)))
    return values - model.fit(given[inside], values[inside]).predict(given)
