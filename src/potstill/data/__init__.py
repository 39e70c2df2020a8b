"""Reading, checking, deduplicating, splitting and batching rows."""
