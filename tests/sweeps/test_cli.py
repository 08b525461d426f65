"""`metaphase`: its words lead to the modules' main functions, everything else gets the usage."""

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
