"""The one exception that a user's mistake raises: `main` prints its sentence and exits with 2."""


class UserError(Exception):
  """Says what was given, what was expected and what to do; names the file where there is one."""
