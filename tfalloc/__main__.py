"""`python -m tfalloc` is the `tfalloc` command."""

from tfalloc.cli import main

if __name__ == "__main__":
    main()
