"""`python -m diff_es` is the command line, also where its script is not on the path."""

from diff_es.cli import main

if __name__ == "__main__":
    main()
