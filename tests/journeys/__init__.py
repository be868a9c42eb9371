"""The journeys of a job, on real servers."""
