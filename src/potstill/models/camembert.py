"""CamemBERT (Martin et al. 2019, arXiv:1911.03894): RoBERTa in other words of the configuration alone."""

from dataclasses import replace

from potstill.models import roberta

FAMILY = replace(roberta.FAMILY, name="camembert")
