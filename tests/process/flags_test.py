"""Settings of the binaries: what is wrong stops the start with exit code 2 and is named."""

import pathlib
import subprocess
import tempfile
import unittest

from harness import BIN, HANG_S, TINY, Stage, clean_environment, main

PROGRAMS = ("quire-coordinator", "quire-worker")


def run(program, *flags, **environment):
    return subprocess.run([BIN / program, *map(str, flags)], env=clean_environment() | environment,
                          capture_output=True, text=True, timeout=HANG_S)


class FlagsTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def assert_refused(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertNotIn("listening", result.stdout)

    def config(self, text):
        file = self.folder / "config.toml"
        file.write_text(text)
        return "--config", file

    def test_version_and_help(self):
        for program in PROGRAMS:
            version = run(program, "--version")
            self.assertEqual(version.returncode, 0)
            self.assertRegex(version.stdout, rf"^{program} \d+\.\d+\.\d+\n$")
            help_text = run(program, "--help")
            self.assertEqual(help_text.returncode, 0)
            self.assertIn("QUIRE_METRICS_PORT", help_text.stdout)

    def test_an_unknown_flag(self):
        for program in PROGRAMS:
            self.assert_refused(run(program, "--model", TINY, "--colour", "blue"), "--colour")

    def test_an_unknown_key_of_the_file(self):
        for program, flags in (("quire-coordinator", []), ("quire-worker", ["--model", TINY])):
            self.assert_refused(run(program, *flags, *self.config("colour = 'blue'\n")), "colour")

    def test_a_file_that_is_not_there(self):
        self.assert_refused(run("quire-coordinator", "--config", self.folder / "absent.toml"), "absent.toml")

    def test_a_wrong_value_by_flag_environment_and_file(self):
        for program, flags in (("quire-coordinator", []), ("quire-worker", ["--model", TINY])):
            for value in ("many", "-1", "65536"):
                with self.subTest(program=program, value=value):
                    self.assert_refused(run(program, *flags, f"--port={value}"), "port", value)
                    self.assert_refused(run(program, *flags, QUIRE_PORT=value), "QUIRE_PORT", value)
                    self.assert_refused(run(program, *flags, *self.config(f"port = {value}\n")), "port", value)

    def test_values_that_no_setting_allows(self):
        for flags, words in (
                (["--worker", "nowhere"], ["nowhere"]),
                (["--generation-config", "some"], ["--generation-config", "some"]),
                (["--max-streams", 0], ["--max-streams"]),
                (["--tokenizer-threads", 0], ["--tokenizer-threads"]),
                (["--stream-threads", 0], ["--stream-threads"]),
                (["--drain-timeout=-5"], ["--drain-timeout", "-5"]),
                (["--drain-timeout", "nan"], ["--drain-timeout"]),
                (["--drain-timeout", "1e300"], ["--drain-timeout"]),
                (["--host", "0.0.0.0"], ["--insecure"]),
                (["--etcd-endpoints", "127.0.0.1:2379,nowhere"], ["--etcd-endpoints", "nowhere"]),
                (["--etcd-endpoints", "127.0.0.1:0"], ["--etcd-endpoints", "port 0"]),
                (["--etcd-endpoints", "10.0.0.1:2379"], ["--etcd-endpoints 10.0.0.1:2379", "--insecure"]),
                (["--etcd-prefix", "quire"], ["--etcd-prefix", "quire"]),
                (["--etcd-prefix", "/quire/"], ["--etcd-prefix", "/quire/"]),
                (["--admin-address", "nowhere"], ["--admin-address", "nowhere"]),
                (["--suspect-timeout", 0.5], ["--suspect-timeout", "1 to 600"]),
                (["--admin-address", "0.0.0.0:0"], ["--admin-address", "--insecure"]),
        ):
            with self.subTest(flags=flags):
                self.assert_refused(run("quire-coordinator", "--port", 0, *flags), *words)
        for flags, words in (
                (["--engine", "steam"], ["--engine", "steam"]),
                (["--dtype", "fp8"], ["--dtype", "fp8"]),
                (["--device", "abacus"], ["--device", "abacus"]),
                (["--max-num-seqs", 0], ["--max-num-seqs"]),
                (["--max-num-batched-tokens", 1], ["--max-num-batched-tokens"]),
                (["--max-model-len", 4096], ["--max-model-len", "2048"]),
                (["--join", "nowhere"], ["nowhere"]),
                (["--host", "0.0.0.0"], ["--insecure"]),
                (["--etcd-lease-ttl", 1], ["--etcd-lease-ttl", "2 to 3600"]),
                (["--host", "0.0.0.0", "--insecure", "--etcd-endpoints", "127.0.0.1:2379"],
                 ["--etcd-endpoints", "--advertise-address"]),
                (["--etcd-endpoints", "127.0.0.1:2379", "--worker-name", 300 * "n"], ["--worker-name"]),
                (["--admin-address", "0.0.0.0:0"], ["--admin-address", "--insecure"]),
                (["--kv-cache-memory-bytes", 1], ["--kv-cache-memory-bytes"]),
                (["--block-size", 0], ["--block-size"]),
                (["--tensor-parallel-size", 4], ["tensor_parallel_size 4", "num_attention_heads, 6"]),
                (["--tensor-parallel-size", 2, "--engine", "baseline"], ["--tensor-parallel-size"]),
        ):
            with self.subTest(flags=flags):
                self.assert_refused(run("quire-worker", "--model", TINY, "--port", 0, *flags), *words)

    def test_a_model_that_is_missing_or_broken(self):
        self.assert_refused(run("quire-worker", "--port", 0), "--model")
        self.assert_refused(run("quire-worker", "--port", 0, "--model", self.folder / "absent"), "absent")
        (self.folder / "config.json").write_text("{")
        self.assert_refused(run("quire-worker", "--port", 0, "--model", self.folder), "config.json")
        (self.folder / "config.json").write_text((TINY / "config.json").read_text())
        (self.folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:1_000_000])
        self.assert_refused(run("quire-worker", "--port", 0, "--model", self.folder), "model.safetensors")

    def test_a_gpu_that_is_not_there(self):
        for engine in ("paged", "baseline"):
            with self.subTest(engine=engine):
                refused = run("quire-worker", "--model", TINY, "--port", 0, "--engine", engine, "--device", "cuda",
                              CUDA_VISIBLE_DEVICES="")
                self.assert_refused(refused, "--device cuda")

    def test_a_port_in_use(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        self.assert_refused(run("quire-coordinator", "--port", coordinator.port), coordinator.address)
        self.assert_refused(run("quire-coordinator", "--port", 0, "--admin-address", coordinator.address),
                            "--admin-address", coordinator.address)

    def test_a_variable_that_no_setting_has_is_named(self):
        process = Stage.of_test(self).coordinator(environment={"QUIRE_MAX_STRAEMS": "1"})
        process.wait_logged("QUIRE_MAX_STRAEMS")
        self.assertRegex(process.log(), "warning.*QUIRE_MAX_STRAEMS")

    def test_the_log_says_where_each_value_comes_from(self):
        stage = Stage.of_test(self)
        config = self.config("drain-timeout = 7\nmax-streams = 9\n")
        process = stage.coordinator(*config, "--max-streams", 11, environment={"QUIRE_TOKENIZER_THREADS": "3"})
        for line in ("drain-timeout=7 (file)", "max-streams=11 (command line)", "tokenizer-threads=3 (environment)",
                     "host=127.0.0.1 (default)", "insecure=false (default)"):
            process.wait_logged(f"setting {line}")


if __name__ == "__main__":
    main()
