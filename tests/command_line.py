"""A command line run in the process of a test."""

from basinscope import cli


def ended(capsys, *words) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a line."""
    capsys.readouterr()
    code = 0
    try:
        cli.main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()
