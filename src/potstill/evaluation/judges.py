"""Which judge answers of each kind have: the one place where it is chosen."""

from potstill.evaluation import generative, multi_label, regression, single_label, tags
from potstill.evaluation.answers import Judge
from potstill.records import AnswerKind

_GENERATIVE = Judge(generative.answers_of, generative.judged)

JUDGES: dict[AnswerKind, Judge] = {
    "single_label": Judge(single_label.answers_of, single_label.judged),
    "multi_label": Judge(multi_label.answers_of, multi_label.judged),
    "regression": Judge(regression.answers_of, regression.judged),
    "tags": Judge(tags.answers_of, tags.judged),
    "text": _GENERATIVE,
    "target": _GENERATIVE,
}
