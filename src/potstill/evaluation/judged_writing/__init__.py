"""Whether what models write is right, or as good as what their teacher writes, by the judge that a recipe names."""
