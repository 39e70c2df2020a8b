"""The floor: TF-IDF and a linear model, which a distilled model must beat to be worth its cost."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import spmatrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

MAX_TERMS = 30_000


def unfit(texts: Sequence[str], labels: Sequence[object]) -> str | None:
    """Why nothing can be fitted on these labelled texts, in words; None where something can."""
    words = _vectoriser().build_analyzer()
    if not any(words(text) for text in texts):
        return "none of their texts has a word of two letters or more"
    return None if len(set(labels)) > 1 else "all of them have the same label"


def tfidf_predictions(texts: Sequence[str], labels: Sequence[int], asked: Sequence[str], *, seed: int) -> list[int]:
    """Classes of the texts `asked`, by a linear model of words and word pairs of the labelled texts."""
    known, new = _terms(texts, asked)
    return [int(label) for label in _logistic(seed).fit(known, list(labels)).predict(new)]


def tfidf_labels(
    texts: Sequence[str], labels: Bool[np.ndarray, "texts labels"], asked: Sequence[str], *, seed: int
) -> Bool[np.ndarray, "asked labels"]:
    """The labels of the texts `asked`, by such a model for each label, against all texts without it."""
    known, new = _terms(texts, asked)
    predicted = np.zeros((len(asked), labels.shape[1]), dtype=np.bool_)
    for number, column in enumerate(labels.T):
        # One that all texts have, or none, leaves nothing to fit.
        constant = column.all() or not column.any()
        predicted[:, number] = column[0] if constant else _logistic(seed).fit(known, column).predict(new)
    return predicted


def tfidf_numbers(
    texts: Sequence[str], labels: Float[np.ndarray, "texts"], asked: Sequence[str]
) -> Float[np.ndarray, "asked"]:
    """The numbers of the texts `asked`, by ridge regression on the same terms.

    A penalty of 0.3 explained a little more than scikit-learn's 1, where it was tried.
    """
    known, new = _terms(texts, asked)
    return np.asarray(Ridge(alpha=0.3).fit(known, labels).predict(new), dtype=np.float64)


def _terms(texts: Sequence[str], asked: Sequence[str]) -> tuple[spmatrix, spmatrix]:
    """Sublinear counts of words and word pairs of both.

    Terms beyond the most frequent MAX_TERMS occur in one text each, as a rule; without them the fit takes a third of
    the time and is as good.
    """
    vectoriser = _vectoriser()
    return vectoriser.fit_transform(list(texts)), vectoriser.transform(list(asked))


def _vectoriser() -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=MAX_TERMS, dtype=np.float32)


def _logistic(seed: int) -> LogisticRegression:
    """C=30 is a strong usual setting for short texts: weaker regularisation than scikit-learn's default, which would
    make the floor too easy to beat."""
    return LogisticRegression(C=30, max_iter=1000, random_state=seed)
