"""Jobs found by what is in them: searches, and actions on all that match."""
