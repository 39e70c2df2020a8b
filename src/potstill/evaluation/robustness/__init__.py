"""How models answer where texts are not as in the test: changed, changed on purpose, or of another kind."""
