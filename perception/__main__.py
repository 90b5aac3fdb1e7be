"""`python -m perception`, for where the command is not on the path."""

from perception.cli.main import main

main()
