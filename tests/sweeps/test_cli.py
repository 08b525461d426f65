"""`metaphase`: its words lead to the modules' main functions, everything else gets the usage."""

import re
import subprocess
import sys

import pytest

from metaphase.sweeps import cli


def test_run_is_the_module_of_that_name(capsys):
    assert cli.main(["run", "--list"]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_usage(capsys):
    assert cli.main(["--help"]) == 0
    assert "usage: metaphase" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert "usage: metaphase" in capsys.readouterr().err
    assert cli.main(["rnu"]) == 2
    assert "'rnu' is not one of run, status, " in capsys.readouterr().err


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_a_command_is_described_as_in_the_usage(word, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([word, "--help"])
    text = cli.COMMANDS[word][1]
    assert capsys.readouterr().out.split("\n\n")[1] == f"{text[0].upper()}{text[1:]}."


@pytest.mark.parametrize("word", ["plot", "report", "compare", "watch", "serve"])
def test_a_command_line_is_read_before_pandas_is_imported(word):
    """A tenth of a second, not half of one, for help and mistakes."""
    code = (
        "import sys; from metaphase.sweeps import cli\n"
        f"try: cli.main(['{word}', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'pandas', 'pyarrow', 'matplotlib', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_every_option_is_explained_and_of_one_name_there_is_one_kind(capsys, monkeypatch):
    """Options that several commands declare are declared once."""
    monkeypatch.setenv("COLUMNS", "1000")
    told: dict[str, set[str]] = {}
    for word in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.main([word, "--help"])
        options = capsys.readouterr().out.partition("\noptions:\n")[2]
        for line in re.sub(r"\n {8,}", "  ", options).splitlines():
            name, *help = re.split(r" {2,}", line.strip())
            assert help, f"{word} {name} has no help"
            told.setdefault(name.split()[0].rstrip(","), set()).add(" ".join(help))
    for name in ("--data-root", "--root", "--delta", "--confidence", "--format", "--width"):
        assert len(told[name]) == 1, name
