"""A teacher's distributions for a student that reads with another tokenizer."""

from potstill.cross_tokenizer.teacher import AlignedRows, RetellingTeacher
from potstill.cross_tokenizer.token_texts import TokenTexts
from potstill.cross_tokenizer.vocabularies import Vocabularies

__all__ = ["AlignedRows", "RetellingTeacher", "TokenTexts", "Vocabularies"]
