"""`python -m d2check`."""

from d2check.cli import main

if __name__ == "__main__":
    main(prog_name="d2check")
