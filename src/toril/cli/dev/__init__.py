"""`toril dev`: a gateway to try toril out, with all doors and an inspector."""
