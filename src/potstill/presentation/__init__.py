"""What a run looks like to people: the report as one HTML page, and the model card."""
