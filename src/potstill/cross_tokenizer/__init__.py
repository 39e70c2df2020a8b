"""A teacher's distributions for a student that reads with another tokenizer."""

from potstill.cross_tokenizer.places import MIXED, PLAIN, UNKNOWN
from potstill.cross_tokenizer.teacher import AlignedRows, RetellingTeacher
from potstill.cross_tokenizer.token_texts import TokenTexts
from potstill.cross_tokenizer.vocabularies import Vocabularies

__all__ = ["MIXED", "PLAIN", "UNKNOWN", "AlignedRows", "RetellingTeacher", "TokenTexts", "Vocabularies"]
