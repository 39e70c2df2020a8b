"""Which judge answers of each kind have: the one place where it is chosen."""

from potstill.evaluation import generative, multi_label, regression, single_label, tags
from potstill.evaluation.answers import Judge, texts_of
from potstill.evaluation.robustness.measured import beside_the_test
from potstill.evaluation.robustness.of_tags import tags_beside_the_test
from potstill.evaluation.robustness.of_tokens import tokens_beside_the_test
from potstill.records import AnswerKind

_GENERATIVE = Judge(
    generative.answers_of,
    generative.judged,
    generative.queries_of,
    generative.kept,
    generative.truth,
    generative.more_of,
    generative.answers_of,
    generative.compared,
    tokens_beside_the_test,
)

JUDGES: dict[AnswerKind, Judge] = {
    "single_label": Judge(
        single_label.answers_of,
        single_label.judged,
        texts_of,
        single_label.kept,
        single_label.truth,
        beside=beside_the_test,
    ),
    "multi_label": Judge(
        multi_label.answers_of,
        multi_label.judged,
        texts_of,
        multi_label.kept,
        multi_label.truth,
        beside=beside_the_test,
    ),
    "regression": Judge(regression.answers_of, regression.judged, texts_of, regression.kept, regression.truth),
    "tags": Judge(tags.answers_of, tags.judged, tags.documents_of, tags.kept, tags.truth, beside=tags_beside_the_test),
    "text": _GENERATIVE,
    "target": _GENERATIVE,
}
