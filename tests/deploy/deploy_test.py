"""The files of deploy/ against the programs they start: settings that exist, time to drain, libraries."""

import os
import pathlib
import re
import shutil
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = pathlib.Path(os.environ["QUIRE_BIN"])
SERVERS = {"quire-coordinator": ("quire-coordinator.service", "coordinator.env"),
           "quire-worker": ("quire-worker@.service", "worker.env")}


def assignments(name: str) -> dict[str, str]:
    """NAME=value lines of a unit or environment file; of a name that repeats, the last."""
    text = (DEPLOY / "systemd" / name).read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def help_text(program: str) -> str:
    return subprocess.run([BIN / program, "--help"], check=True, capture_output=True, text=True).stdout


class Settings(unittest.TestCase):
    def test_environment_files_name_settings_of_their_program(self):
        for program, (_, file) in SERVERS.items():
            known = set(re.findall(r"QUIRE_[A-Z_]+", help_text(program)))
            named = assignments(file)
            self.assertEqual(set(named) - known, {"OPTIONS"}, program)
            for flag in re.findall(r"--[a-z-]+", named["OPTIONS"]):
                self.assertIn(flag, help_text(program))

    def test_compose_file_uses_flags_of_its_programs(self):
        for line in re.findall(r"command: \[(.*?)\]", (DEPLOY / "compose.yaml").read_text(), re.S):
            program, *arguments = [part.strip().strip('"') for part in line.split(",")]
            known = help_text(program)
            for argument in arguments:
                if argument.startswith("--"):
                    self.assertIn(argument, known)

    def test_rolling_restart_uses_flags_of_its_commands(self):
        script = (DEPLOY / "rolling-restart.sh").read_text()
        for command in ("drain", "load"):
            done = subprocess.run([BIN / "quire", command, "--help"], check=True, capture_output=True, text=True)
            (line,) = re.findall(rf"^ +quire {command} .*$", script, re.M)
            for flag in re.findall(r"--[a-z-]+", line):
                self.assertIn(flag, done.stdout)
        subprocess.run(["sh", "-n", DEPLOY / "rolling-restart.sh"], check=True)

    def test_units_wait_longer_than_draining_takes(self):
        for program, (service, file) in SERVERS.items():
            drain = float(assignments(file)["QUIRE_DRAIN_TIMEOUT"])
            wait = float(assignments(service)["TimeoutStopSec"])
            self.assertGreaterEqual(wait, drain + 5, program)
        graces = re.findall(r"stop_grace_period: (\d+)s", (DEPLOY / "compose.yaml").read_text())
        self.assertEqual(graces, ["45", "45"])

    if shutil.which("systemd-analyze"):  # Not in a container.

        def test_units_are_well_formed(self):
            for service, _ in SERVERS.values():
                done = subprocess.run(["systemd-analyze", "verify", "--man=no", DEPLOY / "systemd" / service],
                                      capture_output=True, text=True, check=False)
                complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
                self.assertEqual(complaints, [], service)


class Image(unittest.TestCase):
    def test_runtime_stage_has_every_shared_library(self):
        """Each library that the servers need comes with the base image or a package that the stage installs."""
        stage = (DEPLOY / "Dockerfile").read_text().split("FROM debian:12-slim")[1]
        for program in SERVERS:
            listed = subprocess.run(["readelf", "-d", BIN / program], check=True, capture_output=True, text=True).stdout
            for library in re.findall(r"NEEDED.*\[(.*?)\]", listed):
                if re.match(r"(libc|libm|libgcc_s|ld-linux.*)\.so", library):
                    continue  # In the base image.
                if re.match(r"(libtorch.*|libc10|libcu.*|libnccl|lib(a|ub|t)san)\.so", library):
                    continue  # Not in a build for serving.
                # libfmt.so.9 is in libfmt9, libspdlog.so.1.10 in libspdlog1.10.
                stem, version = library.split(".so.")
                names = {stem + version, f"{stem}-{version}", {"libcrypto": "libssl"}.get(stem, stem) + version}
                self.assertTrue(any(re.search(rf"\s{re.escape(n)}\s", stage) for n in names), f"{program}: {library}")

    def test_copied_paths_exist(self):
        for line in re.findall(r"^COPY (?!--from)(\S+)", (DEPLOY / "Dockerfile").read_text(), re.M):
            self.assertTrue((ROOT / line).exists(), line)


if __name__ == "__main__":
    unittest.main()
