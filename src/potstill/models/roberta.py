"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT's layers under another name, and a head of two layers."""

from dataclasses import replace

from potstill.models import bert
from potstill.models.family import Positions
from potstill.models.roles import Role

FAMILY = replace(
    bert.FAMILY,
    name="roberta",
    laid_out_as="roberta",
    base="roberta",
    base_modules=bert.EMBEDDINGS,
    # Of texts the classifier has two layers, of words one.
    outside={
        "classifier.dense": Role.POOLER,
        "classifier.out_proj": Role.CLASSIFIER,
        "classifier": Role.CLASSIFIER,
    },
    positions=Positions.LEARNT_AFTER_PADDING,
    factorised_as=None,
)
