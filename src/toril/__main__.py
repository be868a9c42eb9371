"""`python -m toril`: the same as the `toril` command."""

from toril.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
