"""`fisherfleet COMMAND`: the commands around a fleet and its broker are there, and load nothing heavy."""

import shutil
import subprocess
import sys

import pytest

from devices.command_line import main
from server.registry import Registry

HEAVY = {"torch", "onnx", "onnxruntime", "fastapi", "sklearn", "sqlalchemy", "matplotlib", "scipy", "dp_accounting"}


@pytest.mark.parametrize("command", ["fleet", "broker-config", "doctor", "privacy", "runs", "devices", "models"])
def test_a_command_explains_itself_without_heavy_modules(command):
    program = (
        "import sys; from devices.command_line import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "sys.stderr.write(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: fisherfleet {command}")
    assert HEAVY.isdisjoint(done.stderr.split())


def test_the_way_from_nothing_to_a_revoked_device(tmp_path, capsys):
    home = str(tmp_path / "home")
    for arguments in (
        ["fleet", "init", home, "--host", "broker.local"],
        ["fleet", "add", home, "kitchen", "garden"],
        ["broker-config", "mosquitto", "--fleet", home],
        ["fleet", "revoke", home, "kitchen"],
    ):
        assert main(arguments) == 0
    registry = Registry.load(tmp_path / "home/devices.json")
    assert registry.is_revoked("kitchen")
    assert registry.keys("kitchen") == ()
    assert len(registry.keys("garden")) == 1
    assert (tmp_path / "home/broker/mosquitto.conf").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_all_commands_and_their_options(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    for word in ("runs", "enrol-token", "--participation", "roll-back", "--replace", "promote", "--ca-file"):
        assert word in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)


def test_bash_offers_what_may_follow(tmp_path, capsys):
    main(["completion", "bash"])
    program = capsys.readouterr().out + (
        "COMP_WORDS=(fisherfleet runs st); COMP_CWORD=2; _shtab_fisherfleet; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"start", "stop"}
