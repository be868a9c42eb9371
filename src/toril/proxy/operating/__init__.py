"""The async proxy for those who operate it."""
