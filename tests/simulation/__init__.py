"""A simulation of toril's engine on one seeded event loop: `python -m tests.simulation --help`."""
