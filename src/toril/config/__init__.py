"""Settings: read from the environment and a file, checked as a whole, every fault at once."""
