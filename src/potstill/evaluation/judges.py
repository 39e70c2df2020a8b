"""Which judge answers of each kind have: the one place where it is chosen."""

from potstill.evaluation import generative, multi_label, regression, single_label, tags
from potstill.evaluation.answers import Judge, texts_of
from potstill.records import AnswerKind

_GENERATIVE = Judge(generative.answers_of, generative.judged, generative.queries_of, generative.more_of)

JUDGES: dict[AnswerKind, Judge] = {
    "single_label": Judge(single_label.answers_of, single_label.judged, texts_of),
    "multi_label": Judge(multi_label.answers_of, multi_label.judged, texts_of),
    "regression": Judge(regression.answers_of, regression.judged, texts_of),
    "tags": Judge(tags.answers_of, tags.judged, tags.documents_of),
    "text": _GENERATIVE,
    "target": _GENERATIVE,
}
