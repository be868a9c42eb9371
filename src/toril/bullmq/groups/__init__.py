"""Groups of jobs: their limits, their routes' operations, and what holds for groups without limits."""
