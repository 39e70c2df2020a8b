"""ELECTRA (Clark et al. 2020, arXiv:2003.10555), which transformers lets have factorised embeddings.

Only students are of it: those of BERT whose embeddings are factorised.
"""

from dataclasses import replace

from potstill.models import bert
from potstill.models.family import Size
from potstill.models.roles import Role

FAMILY = replace(
    bert.FAMILY,
    name="electra",
    laid_out_as="bert",
    base="electra",
    base_modules={**bert.EMBEDDINGS, "embeddings_project": Role.EMBEDDING_PROJECTION},
    # Of texts the classifier has two layers, of words one. The first token's state goes through a GELU there, and
    # through a tanh in BERT.
    outside={
        "classifier.dense": Role.POOLER,
        "classifier.out_proj": Role.CLASSIFIER,
        "classifier": Role.CLASSIFIER,
    },
    sizes={**bert.FAMILY.sizes, Size.EMBEDDING: ("embedding_size",)},
    teaches=False,
    factorised_as=None,
)
