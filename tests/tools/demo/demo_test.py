"""The demo with stand-ins for Quire's binaries: what it starts, writes, returns, and leaves behind."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import demo

SAMPLE = pathlib.Path(__file__).parents[1] / "report" / "testdata" / "compare.json"

# Shows as READY, under its name, every worker that has left a note of itself.
COORDINATOR = """
import os, pathlib, signal
from fake_inference import FakeInference, Server
from quire.v1 import inference_pb2 as pb

class Coordinator(FakeInference):
    def GetLoad(self, request, context):
        names = [note.name for note in pathlib.Path(os.environ["DEMO_NOTES"]).iterdir()]
        return pb.GetLoadResponse(workers=[pb.WorkerLoad(name=n, state=pb.WorkerLoad.READY) for n in names])

server = Server(Coordinator())
print("quire-coordinator listening on", server.address, flush=True)
signal.pause()
"""
WORKER = """
import os, pathlib, signal, sys
assert "--join" in sys.argv
note = pathlib.Path(os.environ["DEMO_NOTES"]) / sys.argv[sys.argv.index("--worker-name") + 1]
draft = note.parent.parent / f"{note.name}.draft"
draft.write_text(str(os.getpid()))
draft.rename(note)  # whole, or not there
print("quire-worker listening on 127.0.0.1:1", flush=True)
signal.pause()
"""
BROKEN_WORKER = "import sys; sys.exit('no weights here')"
QUIRE = """
import json, pathlib, signal, sys
if sys.argv[1:] == ["--version"]:
    print("quire 1.2.3")
elif sys.argv[1] == "compare":
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    document = json.loads(pathlib.Path({sample!r}).read_text())
    {change}
    pathlib.Path(flags["--output"]).write_text(json.dumps(document))
elif sys.argv[1] == "bench":
    names = ("duration", "median_e2el_ms", "p99_e2el_ms", "median_ttft_ms", "median_tpot_ms", "output_throughput")
    pathlib.Path(sys.argv[sys.argv.index("--output") + 1]).write_text(json.dumps(dict.fromkeys(names, 5.0)))
"""


def is_running(pid):
    """Whether the process runs. One that has ended may wait a while for its parent, or init, to notice."""
    try:
        stat = pathlib.Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class DemoTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.out, self.notes = self.folder / "out", self.folder / "notes"
        self.notes.mkdir()
        self.write("quire-coordinator", COORDINATOR)
        self.write("quire-worker", WORKER)
        self.write_quire()
        environment = {"DEMO_NOTES": str(self.notes), "PYTHONPATH": os.pathsep.join(sys.path)}
        for patch in (mock.patch.dict(os.environ, environment), mock.patch.object(demo, "HF_WORKERS", {})):
            patch.start()
            self.addCleanup(patch.stop)

    def write(self, name, script):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{script}")
        path.chmod(0o755)

    def write_quire(self, change="pass"):
        self.write("quire", QUIRE.format(sample=str(SAMPLE), change=change))

    def flags(self, *more):
        return ["--bin", str(self.folder / "bin"), "--out", str(self.out), *more]

    def run_demo(self, *more):
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = demo.main(self.flags(*more))
        self.assert_all_stopped()
        return code, out.getvalue(), errors.getvalue()

    def assert_all_stopped(self):
        for note in self.notes.iterdir():
            self.assertFalse(is_running(int(note.read_text())), note.name)

    def test_equal_tokens_are_a_success(self):
        code, out, _ = self.run_demo()
        self.assertEqual(code, 0)
        self.assertEqual({note.name for note in self.notes.iterdir()}, set(demo.QUIRE_WORKERS))
        document = json.loads((self.out / "compare.json").read_text())
        self.assertEqual(len(document["rows"]), len(json.loads(SAMPLE.read_text())["rows"]))
        self.assertEqual(document["versions"]["quire"], "1.2.3")
        self.assertIn("load_average_before", document["machine"])
        for name in ("report.html", *demo.PLOTS):
            self.assertGreater((self.out / name).stat().st_size, 1000)
        self.assertIn("paged bf16", out)
        self.assertIn("ready: baseline-dynamic-fp32", out)

    def test_other_tokens_are_a_failure(self):
        self.write_quire("document['rows'][0].update(tokens_equal=False, first_difference=3)")
        code, out, _ = self.run_demo()
        self.assertEqual(code, 1)
        self.assertIn("DIFFERENT at 3", out)
        self.assertTrue((self.out / "report.html").exists())

    def test_on_a_gpu_all_workers_are_told_so_and_the_baseline_runs_in_bf16_too(self):
        self.write("nvidia-smi", "print('NVIDIA H0, 1 MiB, 1.0')")
        self.write("quire-worker", WORKER.replace("assert", "assert '--device cuda' in ' '.join(sys.argv)\nassert"))
        with mock.patch.dict(os.environ, PATH=os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])):
            code, _, errors = self.run_demo("--device", "cuda")
        self.assertEqual(code, 0, errors)
        self.assertEqual({note.name for note in self.notes.iterdir()}, {*demo.QUIRE_WORKERS, *demo.CUDA_WORKERS})
        document = json.loads((self.out / "compare.json").read_text())
        self.assertEqual(document["machine"]["gpu"], "NVIDIA H0, 1 MiB, 1.0")

    def test_what_cannot_be_measured_says_why(self):
        self.write_quire("sys.exit(1)")
        code, _, errors = self.run_demo()
        self.assertEqual(code, 2)
        self.assertEqual(errors, "demo: quire compare ended with status 1\n")
        for note in self.notes.iterdir():
            note.unlink()
        self.write("quire-worker", BROKEN_WORKER)
        code, _, errors = self.run_demo()
        self.assertEqual(code, 2)
        self.assertIn("no weights here", errors)

    def test_ctrl_c_and_sigterm_stop_everything(self):
        self.write_quire("print('measuring', file=sys.stderr, flush=True); signal.pause()")
        script = f"import demo; demo.HF_WORKERS = {{}}; raise SystemExit(demo.main({self.flags()!r}))"
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)):
            for note in self.notes.iterdir():
                note.unlink()
            with self.subTest(number.name), subprocess.Popen(
                    [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                self.assertTrue(any("measuring" in line for line in process.stdout))
                self.assertEqual(len(list(self.notes.iterdir())), len(demo.QUIRE_WORKERS))
                process.send_signal(number)
                process.stdout.read()
                self.assertEqual(process.wait(60), code)
            self.assert_all_stopped()


if __name__ == "__main__":
    unittest.main()
