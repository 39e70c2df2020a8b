"""mT5 (Xue et al. 2020, arXiv:2010.11934): T5 of version 1.1 in a vocabulary of many languages."""

from dataclasses import replace

from potstill.models import t5

FAMILY = replace(t5.FAMILY, name="mt5", own_head=lambda config: True)
