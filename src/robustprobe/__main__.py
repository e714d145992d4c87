"""`python -m robustprobe`: the command line."""

from robustprobe.cli import main

if __name__ == "__main__":
    main()
