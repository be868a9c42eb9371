"""`toril listen`: an endpoint on this machine works on a queue of any toril."""
