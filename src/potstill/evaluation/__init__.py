"""How the answers of models are judged: one judge for each kind of answer, and what all of them share."""
